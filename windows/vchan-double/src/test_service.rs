//! What the tests start inside a Windows VM: one program, told by its first word what to do.

use std::io::{self, Read, Write};
use std::process::{Command, exit};
use std::time::Duration;

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(0_u32);
    match words.first().map(String::as_str).unwrap_or_default() {
        // Back what comes.
        "cat" => io::copy(&mut io::stdin().lock(), &mut io::stdout().lock()).map(drop)?,
        // How many bytes come.
        "count" => println!("{}", io::copy(&mut io::stdin().lock(), &mut io::sink())?),
        // So many bytes.
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
        // Says that it is there, reads nothing, and goes on.
        "deaf" => {
            println!("here");
            io::stdout().flush()?;
            std::thread::sleep(Duration::from_secs(60));
        }
        // A process of ours that has our streams writes after our end.
        "grandchild" => {
            print!("early ");
            io::stdout().flush()?;
            Command::new(std::env::current_exe()?).arg("later").spawn()?;
            exit(3);
        }
        "later" => {
            std::thread::sleep(Duration::from_secs(2));
            println!("late");
        }
        // One byte to begin with, one to the end.
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
