//! `qvm-get-image`: an image that another qube has, as pixels and nothing else. The qube says how large it is and then sends
//! what it likes; here the two must agree before anything is written.

use std::ffi::OsString;
use std::io::{self, Read, Write};

use clap::Parser;
use cli::failure::Failure;
use cli::usage;

use crate::exchange::Exchange;

const PROGRAM: &str = "qvm-get-image";

/// Largest width and height of an image.
const LARGEST: (u32, u32) = (8192, 5120);
/// Those of an icon.
const LARGEST_ICON: (u32, u32) = (2048, 2048);

/// Bytes of a pixel: red, green, blue, and how much of it is to be seen.
const PIXEL: usize = 4;

/// Get an image from another qube.
#[derive(Debug, Parser)]
#[command(
    name = "qvm-get-image",
    override_usage = "qvm-get-image [OPTIONS] QUBE IMAGE >FILE",
    after_help = "\
The image is written to stdout as plain pixels (PAM, which netpbm, GIMP and ImageMagick read): nothing of the file that the \
other qube has comes along. Nothing is written unless all of it came.

Examples:
  qvm-get-image web /usr/share/pixmaps/logo.png >logo.pam
  qvm-get-image --icon work xdgicon:firefox >firefox.pam

Exit status: 0 all is written; 1 what came is no image; 2 the command line; 125 to 127 as qrexec-client-vm(1) has them.

See also: qrexec-client-vm(1), qrexec-services(7)."
)]
struct GetImageArgs {
    /// It is an icon: at most 2048 pixels each way
    #[arg(long)]
    icon: bool,
    /// The qube
    #[arg(value_name = "QUBE")]
    qube: String,
    /// What qubes.GetImageRGBA takes: a path, FORMAT:PATH, or xdgicon:NAME
    #[arg(value_name = "IMAGE")]
    image: String,
}

/// The command line, for manual pages and completions.
pub fn command() -> clap::Command {
    <GetImageArgs as clap::CommandFactory>::command()
}

/// Runs the program with these arguments, its name first, and gives its exit status.
pub fn main(args: Vec<OsString>) -> i32 {
    match usage::parse::<GetImageArgs>(PROGRAM, args) {
        Ok(args) => get(&args).unwrap_or_else(|failure| failure.report(PROGRAM)),
        Err(status) => status,
    }
}

fn get(args: &GetImageArgs) -> Result<i32, Failure> {
    if args.image.contains('\n') {
        return Err(Failure::usage("IMAGE is one line"));
    }
    let mut call = match Exchange::open(PROGRAM, &args.qube, "qubes.GetImageRGBA") {
        Ok(call) => call,
        Err(status) => return Ok(status),
    };
    call.send(format!("{}\n", args.image).as_bytes()).map_err(Failure::during("sending"))?;
    call.end();
    let image = Image::read(&mut call, if args.icon { LARGEST_ICON } else { LARGEST });
    // What comes behind it is nobody's.
    let _ = io::copy(&mut call.by_ref().take(PIXEL as u64), &mut io::sink());
    let image = match image {
        Ok(image) => image,
        Err(why) => {
            let status = call.finish().unwrap_or_else(|failure| failure.status);
            return Err(Failure { status: if status == 0 { 1 } else { status }, message: why.to_string() });
        }
    };
    let mut output = io::stdout().lock();
    image
        .write(&mut output)
        .and_then(|()| output.flush())
        .map_err(|error| Failure { status: 1, message: error.to_string() })?;
    Ok(0)
}

/// Why something is no image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    Header,
    Size,
    Length,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "No icon received: the qube has no such image, or nothing that can read it",
            Self::Header => "the image's size is not said in the right form",
            Self::Size => "the image is empty or too large",
            Self::Length => "the image ends before its last pixel",
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Image {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl Image {
    /// `W H`, a newline, the pixels.
    fn read(from: &mut impl Read, largest: (u32, u32)) -> Result<Self, Wrong> {
        let (width, height) = header(from, largest)?;
        let len = usize::try_from(u64::from(width) * u64::from(height))
            .ok()
            .and_then(|count| count.checked_mul(PIXEL));
        let len = len.ok_or(Wrong::Size)?;
        let mut pixels = Vec::new();
        // As it comes: a header is no reason to take so much memory.
        let read = from.take(len as u64).read_to_end(&mut pixels);
        if read.is_err() || pixels.len() != len {
            return Err(Wrong::Length);
        }
        Ok(Self { width, height, pixels })
    }

    fn write(&self, to: &mut impl Write) -> io::Result<()> {
        write!(
            to,
            "P7\nWIDTH {}\nHEIGHT {}\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n",
            self.width, self.height
        )?;
        to.write_all(&self.pixels)
    }
}

fn header(from: &mut impl Read, largest: (u32, u32)) -> Result<(u32, u32), Wrong> {
    let longest = largest.0.to_string().len() + largest.1.to_string().len() + 2;
    let mut line = Vec::with_capacity(longest);
    loop {
        let mut byte = [0];
        match from.read(&mut byte) {
            Ok(0) | Err(_) if line.is_empty() => return Err(Wrong::Nothing),
            Ok(0) | Err(_) => return Err(Wrong::Header),
            Ok(_) => {}
        }
        match byte {
            [b'\n'] => break,
            [byte] if line.len() + 1 < longest && (byte.is_ascii_digit() || byte == b' ') => line.push(byte),
            _ => return Err(Wrong::Header),
        }
    }
    let text = std::str::from_utf8(&line).map_err(|_| Wrong::Header)?;
    let (width, height) = text.split_once(' ').ok_or(Wrong::Header)?;
    let number = |text: &str, largest: u32| match text.parse::<u32>() {
        _ if text.is_empty() || text.contains(' ') => Err(Wrong::Header),
        Ok(number) if (1..=largest).contains(&number) => Ok(number),
        _ => Err(Wrong::Size),
    };
    Ok((number(width, largest.0)?, number(height, largest.1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: &str, bytes: usize) -> Result<usize, Wrong> {
        let input = [header.as_bytes(), &vec![7; bytes]].concat();
        Image::read(&mut input.as_slice(), LARGEST).map(|image| image.pixels.len())
    }

    #[test]
    fn size_and_pixels_must_agree() {
        for (header, bytes, expected) in [
            ("2 1\n", 8, Ok(8)),
            ("2 1\n", 7, Err(Wrong::Length)),
            ("2 1\n", 9, Ok(8)),
            ("02 1\n", 8, Ok(8)),
            ("0 1\n", 0, Err(Wrong::Size)),
            ("8193 1\n", 8193 * 4, Err(Wrong::Size)),
            ("1 5121\n", 5121 * 4, Err(Wrong::Size)),
            (" 2 1\n", 8, Err(Wrong::Header)),
            ("2 1 \n", 8, Err(Wrong::Header)),
            ("2 1\r\n", 8, Err(Wrong::Header)),
            ("2  1\n", 8, Err(Wrong::Header)),
            ("+2 1\n", 8, Err(Wrong::Header)),
            ("2\n", 8, Err(Wrong::Header)),
            ("0000000002 1\n", 8, Err(Wrong::Header)),
            ("2 1", 0, Err(Wrong::Header)),
            ("", 0, Err(Wrong::Nothing)),
        ] {
            assert_eq!(read(header, bytes), expected, "{header:?}");
        }
    }

    #[test]
    fn it_is_written_as_pixels() {
        let mut output = Vec::new();
        Image { width: 1, height: 1, pixels: vec![1, 2, 3, 4] }.write(&mut output).unwrap();
        assert!(
            output.starts_with(b"P7\nWIDTH 1\nHEIGHT 1\n") && output.ends_with(b"ENDHDR\n\x01\x02\x03\x04")
        );
    }
}
