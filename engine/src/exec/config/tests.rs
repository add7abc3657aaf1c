use super::*;

fn config(text: &str) -> ServiceConfig {
    parse(text.as_bytes()).expect(text).config
}

fn problem(text: &str) -> (usize, Problem) {
    match parse(text.as_bytes()) {
        Err(ConfigError::Line { line, problem }) => (line, problem),
        other => panic!("{text:?} gave {other:?}"),
    }
}

#[test]
fn every_key_is_read() {
    let all = config(
        "wait-for-session = true\nskip-service-descriptor=true\nexit-on-client-eof =true\nexit-on-service-eof= true\nsplice=true\npipes=true\nbuiltin='filecopy'\nexisting='skip-same'",
    );
    assert_eq!(
        all,
        ServiceConfig {
            wait_for_session: true,
            skip_service_descriptor: true,
            exit_on_client_eof: true,
            exit_on_service_eof: true,
            splice: true,
            pipes: true,
            force_user: None,
            builtin: Some(Builtin::Filecopy),
            existing: Existing::SkipSame,
            filter: None,
        }
    );
    for (word, rule) in
        [("fail", Existing::Fail), ("rename", Existing::Rename), ("new-folder", Existing::NewFolder)]
    {
        assert_eq!(config(&format!("existing='{word}'")).existing, rule);
    }
    assert_eq!(problem("builtin='other'"), (1, Problem::Word));
    assert_eq!(problem("\nexisting='replace'"), (2, Problem::Word));
    assert_eq!(config("force-user = 'joan'\n").force_user.as_deref(), Some("joan"));
    assert_eq!(config(""), ServiceConfig::default());
}

#[test]
fn the_file_of_an_argument_comes_first_and_then_that_of_the_service() {
    let dir = tempfile::tempdir().expect("tempdir");
    let folders = SearchPath::new(format!("{0}/a:{0}/b", dir.path().display()).as_ref());
    let write = |file: &str, user: &str| {
        let path = dir.path().join(file);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("mkdir");
        std::fs::write(path, format!("force-user='{user}'\n")).expect("write");
    };
    let user = |full: &str| ServiceConfig::load(&folders, full, "s").expect(full).force_user;
    assert_eq!(user("s+x"), None);
    write("b/s", "all-in-b");
    assert_eq!(user("s+x").as_deref(), Some("all-in-b"));
    write("a/s", "all-in-a");
    assert_eq!(user("s+x").as_deref(), Some("all-in-a"));
    write("b/s+x", "x-in-b");
    assert_eq!(user("s+x").as_deref(), Some("x-in-b"));
    write("a/s+", "none-in-a");
    assert_eq!(user("s+").as_deref(), Some("none-in-a"));
    assert_eq!(user("s+y").as_deref(), Some("all-in-a"));
}

#[test]
fn comments_blank_ends_and_dos_lines_are_fine() {
    let text = "# first\r\n\r\nwait-for-session\t=\t1 \t# why\r\nexit-on-client-eof=false#no\r\n";
    assert!(config(text).wait_for_session);
    assert_eq!(config("force-user='a # b' # c").force_user.as_deref(), Some("a # b"));
    assert!(!config("wait-for-session=0").wait_for_session);
}

#[test]
fn what_is_not_understood_is_an_error_with_its_line() {
    for (text, expected) in [
        ("\n  wait-for-session=true", (2, Problem::LeadingBlank)),
        (" ", (1, Problem::LeadingBlank)),
        ("[section]", (1, Problem::Section)),
        ("=true", (1, Problem::Key)),
        ("1key=true", (1, Problem::Key)),
        ("wait-for-session", (1, Problem::NoEquals)),
        ("wait for session=true", (1, Problem::NoEquals)),
        ("wait-for-session=", (1, Problem::Value)),
        ("wait-for-session=yes", (1, Problem::Value)),
        ("wait-for-session=trueish", (1, Problem::Trailing)),
        ("wait-for-session=2", (1, Problem::Type)),
        ("wait-for-session=01", (1, Problem::Trailing)),
        ("wait-for-session=99999999999999999999", (1, Problem::Value)),
        ("wait-for-session='true'", (1, Problem::Type)),
        ("exit-on-client-eof=1", (1, Problem::Type)),
        ("force-user=true", (1, Problem::Type)),
        ("force-user=\"joan\"", (1, Problem::Quotes)),
        ("force-user='''joan'''", (1, Problem::Quotes)),
        ("force-user='joan", (1, Problem::String)),
        ("force-user='joan' x", (1, Problem::Trailing)),
        ("wait-for-session=true\0", (1, Problem::Nul)),
        ("wait-for-session=true\nwait-for-session=true", (2, Problem::Duplicate)),
        ("unknown=rubbish", (1, Problem::Value)),
    ] {
        assert_eq!(problem(text), expected, "{text:?}");
    }
    assert_eq!(parse(b"force-user='\xff'"), Err(ConfigError::Line { line: 1, problem: Problem::String }));
}

#[test]
fn unknown_keys_are_passed_over_and_remembered() {
    let parsed = parse(b"new.key_2 = 'x'\nwait-for-session=true\n").expect("valid");
    assert_eq!(parsed.unknown, [(1, "new.key_2".to_owned())]);
    assert!(parsed.config.wait_for_session);
}

#[test]
fn a_forced_user_excludes_what_only_sockets_do() {
    for key in ["skip-service-descriptor", "exit-on-client-eof", "exit-on-service-eof"] {
        let text = format!("force-user='joan'\n{key}=true\n");
        assert_eq!(parse(text.as_bytes()), Err(ConfigError::ForceUserWith(key)));
        assert!(!config(&format!("{key}=true")).allows_fork_server());
    }
}

/// Whatever is found in place of a configuration: no call waits for it, and none runs without it.
#[test]
fn only_a_file_of_a_sensible_size_is_read() {
    let folder = tempfile::tempdir().expect("tempdir");
    let folders = SearchPath::new(folder.path().as_os_str());
    let path = folder.path().join("test.Odd");
    let load = || {
        let loaded = ServiceConfig::load(&folders, "test.Odd+", "test.Odd");
        std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir(&path)).expect("remove");
        loaded.map_err(|error| error.code())
    };
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("fifo");
    assert_eq!(load(), Err(125));
    std::fs::create_dir(&path).expect("mkdir");
    assert_eq!(load(), Err(125));
    std::os::unix::fs::symlink("/dev/zero", &path).expect("link");
    assert_eq!(load(), Err(125));
    let _socket = std::os::unix::net::UnixListener::bind(&path).expect("bind");
    assert_eq!(load(), Err(125));
    std::fs::write(&path, "#".repeat(64 << 10)).expect("write");
    assert_eq!(load(), Ok(ServiceConfig::default()));
    std::fs::write(&path, "#".repeat((64 << 10) + 1)).expect("write");
    assert_eq!(load(), Err(125));
}

#[test]
fn a_filter_is_words_and_stands_alone() {
    let filter = config("filter='usbip no-vendor-requests classes=08'").filter.unwrap();
    assert!(!filter.vendor_requests && filter.firmware && filter.classes.is_some_and(|set| set.contains(8)));
    assert!(!config("filter='usbip'").allows_fork_server() && config("").allows_fork_server());
    for wrong in ["filter='usb'", "filter='usbip fast'", "filter=''"] {
        assert_eq!(problem(wrong), (1, Problem::Word));
    }
    assert_eq!(problem("filter=true"), (1, Problem::Type));
    for (other, key) in [("splice=true", "splice"), ("builtin='filecopy'", "builtin")] {
        let both = parse(format!("filter='usbip'\n{other}").as_bytes());
        assert_eq!(both, Err(ConfigError::FilterWith(key)));
    }
}
