use super::*;

fn plan(args: &[&str]) -> Result<Plan, i32> {
    let args = std::iter::once(&"qrexec-client-vm").chain(args).map(OsString::from).collect();
    ClientVmArgs::read(args)?.plan().map_err(|failure| failure.status)
}

fn good(args: &[&str]) -> Plan {
    plan(args).unwrap_or_else(|status| panic!("{args:?}: {status}"))
}

#[test]
fn options_end_at_the_first_word() {
    let plan = good(&["work", "-t", "/bin/echo", "-T", "--help"]);
    assert_eq!(plan.request.service.as_str(), "-t");
    assert_eq!((plan.filter_stdout, plan.filter_stderr), (None, None));
    let echo = LocalProgram::new(OsStr::new("/bin/echo"), vec!["-T".into(), "--help".into()]);
    assert_eq!(plan.program, Some(echo));
    let plan = good(&["-t", "--", "-x", "y"]);
    assert_eq!(plan.request.target.as_str(), "-x");
}

#[test]
fn targets_in_old_and_new_spelling() {
    let target = |word| good(&[word, "s"]).request.target.to_string();
    assert_eq!(
        ["$default", "@dispvm:x", "", "a/b"].map(target),
        ["@default", "@dispvm:x", "@default", "a_b"]
    );
    assert_eq!(plan(&[&"x".repeat(64), "s"]).err(), Some(2));
}

#[test]
fn the_later_filter_option_holds() {
    assert_eq!(good(&["-t", "-T", "a", "b"]).filter_stdout, Some(true));
    assert_eq!(good(&["-t", "--no-filter-escape-chars-stdout", "a", "b"]).filter_stdout, Some(false));
    assert_eq!(good(&["--no-filter-escape-chars-stderr", "-T", "a", "b"]).filter_stderr, Some(true));
    assert_eq!(good(&["-T", "-T", "a", "b"]).filter_stderr, Some(true));
}

#[test]
fn buffer_sizes() {
    let size = |text: &str| plan(&[&format!("--buffer-size={text}"), "a", "b"]).map(|plan| plan.buffer);
    assert_eq!(size("0"), Ok(None));
    assert_eq!(size("0x1000"), Ok(Some(4096)));
    assert_eq!(size("64K"), Ok(Some(65_536)));
    assert_eq!(size("1M"), Ok(Some(1 << 20)));
    for rubbish in ["", "-1", "12Z", "K"] {
        assert_eq!(size(rubbish), Err(2), "{rubbish:?}");
    }
    for large in ["1048577", "2M", "0x100000000000000000"] {
        assert_eq!(size(large), Err(125), "{large}");
    }
}

#[test]
fn what_goes_once_goes_once() {
    assert_eq!(good(&["-p", "-x", "a", "b"]).prefix, b"-x");
    assert_eq!(good(&["-s", "q", "a", "b"]).request.source.unwrap().as_str(), "q");
    assert_eq!(good(&["-s", "", "a", "b"]).request.source, None);
    assert_eq!(plan(&["-p", "x", "-p", "y", "a", "b"]).err(), Some(2));
    assert_eq!(plan(&["-s", "x", "-s", "y", "a", "b"]).err(), Some(2));
    assert_eq!(plan(&["--use-stdin-socket", "--use-stdin-socket", "a", "b"]).err(), Some(2));
    assert_eq!(plan(&["--use-stdin-socket", "a", "b", "c"]).err(), Some(2));
    assert_eq!(plan(&["--filter", "usb", "a", "b"]).err(), Some(2));
    assert_eq!(plan(&["-t", "--filter", "usbip", "a", "b"]).err(), Some(2));
    assert!(good(&["--filter", "usbip no-firmware", "a", "b"]).usbip.is_some_and(|rules| !rules.firmware));
}

#[test]
fn wrong_command_lines() {
    for wrong in [&[][..], &["a"], &["--bogus", "a", "b"], &["-a"], &["-z", "a", "b"]] {
        assert_eq!(plan(wrong).err(), Some(2), "{wrong:?}");
    }
    assert_eq!(plan(&["--help"]).err(), Some(0));
    for refused in ["", "+x"] {
        assert_eq!(plan(&["a", refused]).err(), Some(126));
    }
}

/// The manual page and the completions come from clap's definition, so the two must not differ.
#[test]
fn it_is_read_as_it_is_defined_for_clap() {
    use clap::FromArgMatches;
    use proptest::prelude::*;
    let word = prop_oneof![
        "-{0,2}[a-z=@$]{0,3}",
        "(--buffer|--buffer-size=|-t|-T|--no-filter-escape-chars-stdout|--no-filter-escape-chars-stderr)",
        "(-a|-p|-s|--use|--splice|--filter|--filter=|--filter-|--no-confine|--pre|--source-qube=|--log-level=info|--|-tT|-tp)",
    ];
    let joined = prop::collection::vec(word.clone(), 1..3).prop_map(|parts| parts.concat());
    let command = prop::collection::vec(prop_oneof![word, joined], 0..6);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let agree = |words: Vec<String>| {
        let args: Vec<OsString> =
            std::iter::once("qrexec-client-vm".into()).chain(words.into_iter().map(Into::into)).collect();
        let clap = engine::getopt::matches(usage::of::<ClientVmArgs>(), args.clone())
            .and_then(|matches| ClientVmArgs::from_arg_matches(&matches));
        prop_assert_eq!(ClientVmArgs::from_line(args).ok(), clap.ok());
        Ok(())
    };
    runner.run(&command, agree).expect("they agree");
}

#[test]
fn its_help_is_the_one_that_clap_would_show() {
    let command = usage::of::<ClientVmArgs>().term_width(100).mut_args(|arg| arg.hide_env_values(true));
    // There is nothing more to see: its examples are in the manual.
    let command = command.after_long_help(clap::builder::Resettable::Reset);
    let clap = command.clone().render_help().to_string();
    assert_eq!(LINE.help, clap, "src/client_vm/args/help.txt is to be:\n{clap}");
}
