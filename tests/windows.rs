//! A Windows VM of a lab, as far as wine is Windows: the acceptance cases of the agent and the client for Windows.
//!
//! `QREXEC_WINDOWS_DIR` names what `cargo xtask windows` has made; without it these tests say that they are skipped. Case 1,
//! the pure crates as programs for Windows, is `cargo xtask ci windows`.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use lab::{Builder, Lab, Part, WINDOWS_DIR};

use crate::common::{EXE, Said, call, eventually, run, skipped, talk, within};

/// wine starts slowly, on a busy machine very slowly.
const LIMIT: Duration = Duration::from_secs(200);

/// The program that the services of these tests are, as Windows names it.
fn service(words: &str) -> String {
    let folder = std::env::var(WINDOWS_DIR).unwrap();
    format!("\"Z:{}\\bin\\test-service.exe\" {words}", folder.replace('/', "\\"))
}

/// A lab with the Windows VM `win` and the Linux VM `work`, if this machine can.
fn windows_lab() -> Option<Builder> {
    if std::env::var_os(WINDOWS_DIR).is_none() {
        skipped("windows: QREXEC_WINDOWS_DIR names nothing; cargo xtask windows makes it");
        return None;
    }
    Some(Lab::builder().exe(EXE).vm("work").windows_vm("win").unwrap())
}

fn tested(describe: impl FnOnce(Builder) -> Builder, test: impl FnOnce(&Lab) + Send + 'static) {
    let Some(builder) = windows_lab() else { return };
    let lab = describe(builder).start();
    within(LIMIT, move || {
        let lab = lab.unwrap();
        test(&lab);
        lab.down().unwrap();
    });
}

/// `qrexec-client -d win COMMAND` in dom0.
fn from_dom0(lab: &Lab, command: &str, input: &[u8]) -> Said {
    run(lab, "dom0", &["qrexec-client", "-d", "win", command], input)
}

fn agent_log(lab: &Lab) -> String {
    let path = lab.layout().log("win").join("agent.log");
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// Case 2: installed, started, stopped while a call runs, started again, removed.
#[test]
fn case_2_the_service_manager() {
    let describe =
        |lab: Builder| {
            lab.env("QREXEC_LAB_WINDOWS_AGENT", "service")
                .script("win", "test.Deaf", &service("deaf"))
                .script("win", "test.Cat", &service("cat"))
        };
    tested(describe, |lab| {
        let wine = |words: &[&str]| {
            let argv = std::iter::once("wine").chain(words.iter().copied());
            talk(lab.command("win", argv).unwrap(), b"")
        };
        let tools = lab.layout().machine("win").join("tools");
        let works = || call(lab, "work", "win", "test.Cat", b"x").text() == "x";
        assert!(works());
        let mut deaf = lab.command("work", ["qrexec-client-vm", "win", "test.Deaf"]).unwrap();
        let mut deaf = deaf.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(deaf.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "here");
        let begun = std::time::Instant::now();
        let said = wine(&["net", "stop", "QrexecAgent"]);
        assert!(said.text().contains("was stopped"), "{said:?}");
        assert_eq!(deaf.wait().unwrap().code(), Some(255));
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(10), "{took:?}");
        assert!(wine(&["sc", "query", "QrexecAgent"]).text().contains("STOPPED"));
        assert!(wine(&["net", "start", "QrexecAgent"]).text().contains("was started"));
        eventually("calls to work again", works);
        let agent = tools.join("bin/qrexec-agent.exe");
        assert_eq!(wine(&[agent.to_str().unwrap(), "-u"]).code, 0);
        assert!(!wine(&["sc", "query", "QrexecAgent"]).text().contains("QrexecAgent"));
        // By hand and without an option it says how it is used.
        assert_eq!(wine(&[agent.to_str().unwrap()]).code, 87);
    });
}

/// Case 3: what dom0 starts.
#[test]
fn case_3_dom0_starts_commands_and_services() {
    let services = |lab: Builder| {
        lab.script("win", "test.Both", &service("both")).script("win", "test.Count", &service("count"))
    };
    tested(services, |lab| {
        assert_eq!(from_dom0(lab, "SYSTEM:cmd.exe /c exit 3", b"").code, 3, "{}", agent_log(lab));
        let said = from_dom0(lab, &format!("SYSTEM:{}", service("args a  \"b c\" d\\e")), b"");
        assert_eq!((said.code, said.text().as_str()), (0, "[a]\n[b c]\n[d\\e]\n"));
        let said = from_dom0(lab, "SYSTEM:QUBESRPC test.Both+ dom0", b"");
        assert_eq!(
            (said.code, said.text().as_str(), said.stderr.as_str()),
            (0, "to stdout\n", "to stderr\n")
        );
        let said = from_dom0(lab, "SYSTEM:QUBESRPC test.Count+ dom0", &vec![7; 1 << 20]);
        assert_eq!((said.code, said.text().trim()), (0, "1048576"));
        assert_eq!(from_dom0(lab, "SYSTEM:no-such-program.exe", b"").code, 127);
        assert_eq!(from_dom0(lab, "SYSTEM:QUBESRPC test.None+ dom0", b"").code, 127);
        // What has no streams is left alone.
        let file = lab.layout().home("win").join("done");
        let command = format!("SYSTEM:cmd.exe /c echo done>Z:{}", file.display());
        assert_eq!(run(lab, "dom0", &["qrexec-client", "-e", "-d", "win", &command], b"").code, 0);
        eventually("the file of a command without streams", || file.exists());
        // A user who is not logged on gets nothing, least of all somebody else's account.
        assert_eq!(from_dom0(lab, "nobody-here:cmd.exe /c exit 3", b"").code, 125);
        assert!(agent_log(lab).contains("nobody-here is not logged on"), "{}", agent_log(lab));
    });
}

/// Case 3: exit codes that are more than a byte never look like success.
#[test]
fn case_3_exit_codes() {
    tested(
        |lab| lab,
        |lab| {
            for (code, told) in
                [(0_u32, 0), (1, 1), (255, 255), (256, 255), (65_536, 255), (0xC000_0005, 255)]
            {
                let said = from_dom0(lab, &format!("SYSTEM:{}", service(&format!("exit {code}"))), b"");
                assert_eq!(said.code, told, "{code:#x}");
            }
        },
    );
}

/// Case 4: service files.
#[test]
fn case_4_service_files() {
    let wide = |text: &str| -> Vec<u8> {
        std::iter::once(0xFEFF).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
    };
    tested(
        |lab| {
            lab.script("win", "test.Relative", "tool.exe args  one")
                .script("win", "test.Blanks", "\"with blank.exe\" args two  \r\n\r\n")
                .script("win", "test.Marked", &format!("\u{feff}{}", service("args three")))
                .script("win", "test.Argument", &service("args x%1y \"%1\""))
                .script("win", "test.Empty", " \r\n")
                .script("win", "test.Long", &format!("{}{}", service("args"), " ".repeat(40_000)))
                .script("win", "nul.txt", &service("args"))
        },
        move |lab| {
            let tool = PathBuf::from(std::env::var_os(WINDOWS_DIR).unwrap()).join("bin/test-service.exe");
            let folder = lab.layout().machine("win").join("tools/qubes-rpc-services");
            std::os::unix::fs::symlink(&tool, folder.join("tool.exe")).unwrap();
            std::os::unix::fs::symlink(&tool, folder.join("with blank.exe")).unwrap();
            let services = lab.layout().services("win");
            std::fs::write(services.join("test.Wide"), wide(&service("args four"))).unwrap();
            let ask = |service: &str| call(lab, "work", "win", service, b"");
            for (service, told) in [
                ("test.Relative", "[one]\n"),
                ("test.Blanks", "[two]\n"),
                ("test.Marked", "[three]\n"),
                ("test.Wide", "[four]\n"),
                ("test.Argument+a.b", "[xa.by]\n[a.b]\n"),
                ("test.Argument", "[xy]\n[]\n"),
            ] {
                let said = ask(service);
                assert_eq!((said.code, said.text().as_str()), (0, told), "{service}: {}", agent_log(lab));
            }
            for (service, code) in [
                ("test.Empty", 125),
                ("test.Long", 125),
                ("test.None", 127),
                ("nul.txt", 127),
                ("..", 127),
                ("test.Relative.", 127),
                // Windows would find it, and policy was asked about another name.
                ("TEST.relative", 127),
            ] {
                assert_eq!(ask(service).code, code, "{service}: {}", agent_log(lab));
            }
        },
    );
}

/// Case 5: both ways between VMs.
#[test]
fn case_5_calls_between_vms() {
    let services = |lab: Builder| {
        lab.script("win", "test.Cat", &service("cat"))
            .script("win", "test.Env", &service("env QREXEC_REMOTE_DOMAIN QREXEC_SERVICE_ARGUMENT"))
            .script("win", "test.Half", &service("half"))
            .script(
                "work",
                "test.Half",
                "#!/bin/sh\nx=$(cat)\necho got $x from $QREXEC_REMOTE_DOMAIN\nexit 7\n",
            )
            .script("work", "test.Cat", "#!/bin/sh\nexec cat\n")
            .script("work", "test.Lost", "#!/bin/sh\nkill -9 $QREXEC_AGENT_PID\nexec sleep 5\n")
            .script("work", "test.Both", "#!/bin/sh\necho out\necho err >&2\n")
            .policy("test.No * * @anyvm deny\n* * @anyvm @anyvm allow\n")
    };
    tested(services, |lab| {
        let said = call(lab, "work", "win", "test.Env+x.y", b"");
        assert_eq!(
            said.text(),
            "QREXEC_REMOTE_DOMAIN=work\nQREXEC_SERVICE_ARGUMENT=x.y\n",
            "{}",
            agent_log(lab)
        );
        let bytes: Vec<u8> = (0..16_u32 << 20).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[2]).collect();
        let said = call(lab, "work", "win", "test.Cat", &bytes);
        assert_eq!(said.code, 0);
        assert!(said.stdout == bytes, "{} of {} bytes came back", said.stdout.len(), bytes.len());
        let said = call(lab, "work", "win", "test.Half", b"half");
        assert_eq!((said.code, said.text().as_str()), (7, "got half\n"));
        // The other way.
        let said = call(lab, "win", "work", "test.Cat", &bytes);
        assert_eq!(said.code, 0, "{}", said.stderr);
        assert!(said.stdout == bytes, "{} of {} bytes came back", said.stdout.len(), bytes.len());
        let said = call(lab, "win", "work", "test.Half", b"half");
        assert_eq!((said.code, said.text().as_str()), (7, "got half from win\n"), "{}", said.stderr);
        let said = call(lab, "win", "work", "test.Both", b"");
        assert_eq!((said.text().as_str(), said.stderr.as_str()), ("out\n", "err\n"));
        assert_eq!(call(lab, "win", "work", "test.No", b"").code, 126);
        assert_eq!(call(lab, "win", "work", "test.None", b"").code, 127);
        // The process that carries the call is killed under it.
        let said = call(lab, "win", "work", "test.Lost", b"");
        assert_eq!(said.code, 255, "{}", said.stderr);
    });
}

/// Case 6: the words of every age, and many callers at once.
#[test]
fn case_6_words_and_many_callers() {
    let services = |lab: Builder| {
        // Its exit code says what it has read.
        let reads =
            "#!/bin/sh\nread x\nread y\ncase $x$y in '[p][q r]') exit 9;; '[p q]') exit 8;; esac\nexit 1\n";
        lab.script("work", "test.Echo", reads).script(
            "work",
            "test.Name",
            "#!/bin/sh\nsleep 1\necho $QREXEC_SERVICE_ARGUMENT\n",
        )
    };
    tested(services, |lab| {
        let program = service("args p \"q r\"");
        // What the program writes is what the service reads.
        for words in [
            vec!["work|test.Echo|".to_owned() + &program],
            vec!["work|test.Echo|user|".to_owned() + &program],
        ] {
            let argv: Vec<&str> =
                std::iter::once("qrexec-client-vm").chain(words.iter().map(String::as_str)).collect();
            let said = run(lab, "win", &argv, b"");
            assert_eq!(said.code, 9, "{words:?}: {}", said.stderr);
        }
        let tool = PathBuf::from(std::env::var_os(WINDOWS_DIR).unwrap()).join("bin/test-service.exe");
        let tool = format!("Z:{}", tool.to_str().unwrap());
        let said = run(lab, "win", &["qrexec-client-vm", "work", "test.Echo", &tool, "args", "p q"], b"");
        assert_eq!(said.code, 8, "{}", said.stderr);
        assert_eq!(run(lab, "win", &["qrexec-client-vm", "work"], b"").code, 125);
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..16)
                .map(|n| scope.spawn(move || (n, call(lab, "win", "work", &format!("test.Name+{n}"), b""))))
                .collect();
            for caller in callers {
                let (n, said) = caller.join().unwrap();
                assert_eq!((said.code, said.text()), (0, format!("{n}\n")), "{}", said.stderr);
            }
        });
    });
}

/// Case 8: a service that does not read stops nobody.
#[test]
fn case_8_a_deaf_service_stops_nobody() {
    let services = |lab: Builder| {
        lab.script("win", "test.Deaf", &service("deaf")).script("win", "test.Cat", &service("cat"))
    };
    tested(services, |lab| {
        let mut deaf = lab.command("work", ["qrexec-client-vm", "win", "test.Deaf"]).unwrap();
        let mut deaf = deaf.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut stdin = deaf.stdin.take().unwrap();
        let writer = std::thread::spawn(move || {
            // Until the call is ended.
            while std::io::Write::write_all(&mut stdin, &[1; 65_536]).is_ok() {}
        });
        for _ in 0..3 {
            let said = call(lab, "work", "win", "test.Cat", b"meanwhile");
            assert_eq!((said.code, said.text().as_str()), (0, "meanwhile"), "{}", agent_log(lab));
        }
        deaf.kill().unwrap();
        deaf.wait().unwrap();
        writer.join().unwrap();
    });
}

/// Case 9: what a grandchild writes is part of the answer, and the exit code comes after it.
#[test]
fn case_9_a_grandchild_holds_the_output() {
    tested(
        |lab| lab.script("win", "test.Grandchild", &service("grandchild")),
        |lab| {
            let said = call(lab, "work", "win", "test.Grandchild", b"");
            assert_eq!((said.code, said.text().as_str()), (3, "early late\n"), "{}", agent_log(lab));
        },
    );
}

/// Case 11: daemon and agent restarted.
#[test]
fn case_11_restarts() {
    tested(
        |lab| lab.script("win", "test.Cat", &service("cat")),
        |lab| {
            let works = || {
                let said = call(lab, "work", "win", "test.Cat", b"x");
                assert_eq!((said.code, said.text().as_str()), (0, "x"), "{}", agent_log(lab));
            };
            works();
            lab.restart("win", Part::Daemon).unwrap();
            works();
            assert!(agent_log(lab).contains("the link to dom0 is lost"), "{}", agent_log(lab));
            lab.restart("win", Part::Agent).unwrap();
            works();
        },
    );
}

/// Case 11: no library, then one whose driver is not there yet, then one that works.
#[test]
fn case_11_the_library_comes_late() {
    let Some(builder) = windows_lab() else { return };
    let there = tempfile::tempdir().unwrap();
    let file = there.path().join("there");
    std::fs::write(&file, "").unwrap();
    let builder = builder
        .script("win", "test.Cat", &service("cat"))
        .env("QREXEC_LAB_VCHAN_ERROR", "50")
        .env("QREXEC_LAB_VCHAN_THERE", file.to_str().unwrap());
    let lab = builder.start();
    within(LIMIT, move || {
        let lab = lab.unwrap();
        let library = lab.layout().machine("win").join("tools/bin/libvchan.dll");
        let real = std::fs::read_link(&library).unwrap();
        std::fs::remove_file(&library).unwrap();
        std::fs::remove_file(&file).unwrap();
        let restarted = std::thread::scope(|scope| {
            let restarted = scope.spawn(|| lab.restart("win", Part::Agent));
            eventually("it says that there is no library", || agent_log(&lab).contains("cannot load"));
            std::os::unix::fs::symlink(&real, &library).unwrap();
            eventually("it says that the driver is late", || agent_log(&lab).contains("not there yet"));
            std::fs::write(&file, "").unwrap();
            restarted.join().unwrap()
        });
        restarted.unwrap();
        assert_eq!(call(&lab, "work", "win", "test.Cat", b"x").text(), "x", "{}", agent_log(&lab));
        lab.down().unwrap();
    });
}

/// Case 12: calls leave no handle behind. `cargo xtask suites` makes a thousand.
#[test]
fn case_12_calls_leave_nothing_behind() {
    tested(
        |lab| {
            lab.script("win", "test.Cat", &service("cat")).script("work", "test.Cat", "#!/bin/sh\nexec cat\n")
        },
        |lab| {
            let log = agent_log(lab);
            let id = log.split('[').nth(1).and_then(|rest| rest.split(']').next()).unwrap().to_owned();
            let tool = format!("{}/bin/test-service.exe", std::env::var(WINDOWS_DIR).unwrap());
            let handles = || {
                let said = talk(lab.command("win", ["wine", &tool, "handles", &id]).unwrap(), b"");
                said.text().trim().parse::<u32>().unwrap_or_else(|_| panic!("{said:?}"))
            };
            let round = |count: usize| {
                for _ in 0..count {
                    assert_eq!(call(lab, "work", "win", "test.Cat", b"x").text(), "x");
                }
                assert_eq!(call(lab, "win", "work", "test.Cat", b"x").text(), "x");
            };
            // Threads that wait for calls and programs are there after the first ones.
            round(5);
            let before = handles();
            round(if crate::common::full() { 1000 } else { 20 });
            eventually("the handles are as many as before", || handles() <= before + 2);
        },
    );
}
