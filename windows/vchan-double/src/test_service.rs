//! The program that the tests start inside a Windows VM; its first argument says what it does.

use std::io::{self, Read, Write};
use std::process::{Command, exit};
use std::time::Duration;

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(0_u32);
    match words.first().map(String::as_str).unwrap_or_default() {
        // Sends back what it receives.
        "cat" => io::copy(&mut io::stdin().lock(), &mut io::stdout().lock()).map(drop)?,
        // Counts the bytes that it receives.
        "count" => println!("{}", io::copy(&mut io::stdin().lock(), &mut io::sink())?),
        // Sends so many pieces of 64 KiB.
        "make" => {
            let mut out = io::stdout().lock();
            let piece = vec![b'x'; 1 << 16];
            for _ in 0..number(1) {
                out.write_all(&piece)?;
            }
        }
        "exit" => exit(i32::from_ne_bytes(number(1).to_ne_bytes())),
        "env" => {
            for name in words.iter().skip(1) {
                println!("{name}={}", std::env::var(name).unwrap_or_else(|_| "-".to_owned()));
            }
        }
        "args" => words.iter().skip(1).for_each(|word| println!("[{word}]")),
        "both" => {
            println!("to stdout");
            eprintln!("to stderr");
        }
        // Shows that it runs, and reads nothing.
        "deaf" => {
            println!("here");
            io::stdout().flush()?;
            // Longer than any test, so that it reads nothing meanwhile; then it ends, if nothing has ended it before.
            std::thread::sleep(Duration::from_secs(60));
        }
        // Starts a process that writes to the same streams after this one has ended.
        "grandchild" => {
            print!("early ");
            io::stdout().flush()?;
            Command::new(std::env::current_exe()?).arg("later").spawn()?;
            exit(3);
        }
        "later" => {
            // So that the end of the first process is noticed before: no event tells that the agent has done so.
            std::thread::sleep(Duration::from_secs(2));
            println!("late");
        }
        // Answers once its input has ended.
        "half" => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text)?;
            println!("got {text}");
            exit(7);
        }
        #[cfg(windows)]
        "handles" => println!("{}", handles::of(number(1))?),
        other => {
            eprintln!("no such word: {other}");
            exit(2);
        }
    }
    Ok(())
}

#[cfg(windows)]
#[path = "handles.rs"]
mod handles;
