//! A service's file: it contains one command line and is no script.

/// Longest file, in bytes: as many as `CreateProcess` takes characters.
pub const MAX_FILE: usize = 32_767;

/// Why a service's file cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadServiceFile {
    /// Too long.
    #[error("the service file has {0} bytes, more than {MAX_FILE}")]
    TooLong(usize),
    /// Neither UTF-8 nor UTF-16LE.
    #[error("the service file is neither UTF-8 nor UTF-16LE with a mark")]
    Encoding,
    /// Nothing in it.
    #[error("the service file is empty")]
    Empty,
    /// A NUL or a second line.
    #[error("the service file has more than one line, or a NUL")]
    Lines,
    /// A quote that is not closed.
    #[error("the service file's program has one quote only")]
    Quote,
}

/// The command line in a service's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceLine {
    /// The program, without quotes.
    pub program: String,
    /// The rest of the line unchanged, with the blank in front.
    pub arguments: String,
}

impl ServiceLine {
    /// Reads a service's file. `%1` is replaced by the service's argument, or by nothing if it has none, wherever it
    /// stands: an argument consists of letters, digits and `_.+-`, none of which ends a word or a quote.
    ///
    /// # Errors
    /// The file contains no command line that could be started.
    pub fn parse(file: &[u8], argument: Option<&str>) -> Result<Self, BadServiceFile> {
        if file.len() > MAX_FILE {
            return Err(BadServiceFile::TooLong(file.len()));
        }
        let text = decoded(file)?;
        let line = text.trim_end();
        if line.trim_start().is_empty() {
            return Err(BadServiceFile::Empty);
        }
        if line.contains(['\0', '\n', '\r']) {
            return Err(BadServiceFile::Lines);
        }
        let line = line.replace("%1", argument.unwrap_or_default());
        let (program, arguments) = split(line.trim_start())?;
        if program.is_empty() {
            return Err(BadServiceFile::Empty);
        }
        Ok(Self { program: program.to_owned(), arguments: arguments.to_owned() })
    }

    /// Whether the program is to be looked for in the folder of services.
    #[must_use]
    pub fn is_relative(&self) -> bool {
        let mut start = self.program.chars();
        let (first, second) = (start.next(), start.next());
        let drive = first.is_some_and(|letter| letter.is_ascii_alphabetic()) && second == Some(':');
        !drive && !matches!(first, Some('\\' | '/'))
    }

    /// The command line with this path for the program.
    #[must_use]
    pub fn command_line(&self, program: &str) -> String {
        let quotes = if program.contains([' ', '\t']) { "\"" } else { "" };
        format!("{quotes}{program}{quotes}{}", self.arguments)
    }
}

fn decoded(file: &[u8]) -> Result<String, BadServiceFile> {
    if let Some(wide) = file.strip_prefix(&[0xFF, 0xFE]) {
        let (units, rest) = wide.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(BadServiceFile::Encoding);
        }
        let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
        return String::from_utf16(&units).map_err(|_| BadServiceFile::Encoding);
    }
    let file = file.strip_prefix(&[0xEF, 0xBB, 0xBF]).unwrap_or(file);
    // Files with other byte order marks are no UTF-8.
    String::from_utf8(file.to_vec()).map_err(|_| BadServiceFile::Encoding)
}

/// The first word, with regard to quotes, and the rest of the line.
fn split(line: &str) -> Result<(&str, &str), BadServiceFile> {
    match line.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').ok_or(BadServiceFile::Quote),
        None => {
            let end = line.find([' ', '\t']).unwrap_or(line.len());
            line.split_at_checked(end).ok_or(BadServiceFile::Empty)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(file: &[u8]) -> Result<(String, String), BadServiceFile> {
        ServiceLine::parse(file, None).map(|line| (line.program, line.arguments))
    }

    fn parts(program: &str, arguments: &str) -> Result<(String, String), BadServiceFile> {
        Ok((program.to_owned(), arguments.to_owned()))
    }

    #[test]
    fn words_and_quotes() {
        assert_eq!(line(b"a.exe"), parts("a.exe", ""));
        assert_eq!(line(b"a.exe -x  \"y z\"\r\n"), parts("a.exe", " -x  \"y z\""));
        assert_eq!(line(b"\"c:\\x y\\a.exe\" b\t \r\n\n"), parts("c:\\x y\\a.exe", " b"));
        assert_eq!(line(b"\"a.exe"), Err(BadServiceFile::Quote));
        assert_eq!(line(b"\"\" x"), Err(BadServiceFile::Empty));
        assert_eq!(line(b" \r\n"), Err(BadServiceFile::Empty));
        assert_eq!(line(b""), Err(BadServiceFile::Empty));
        assert_eq!(line(b"a.exe\nb.exe"), Err(BadServiceFile::Lines));
        assert_eq!(line(b"a\0b"), Err(BadServiceFile::Lines));
    }

    #[test]
    fn marks() {
        assert_eq!(line("\u{feff}ä.exe x".as_bytes()), parts("ä.exe", " x"));
        let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        assert_eq!(line(&wide("\u{feff}ä.exe x\r\n")), parts("ä.exe", " x"));
        assert_eq!(line(&[0xFF, 0xFE, b'a']), Err(BadServiceFile::Encoding));
        assert_eq!(line(&[0xFE, 0xFF, 0, b'a']), Err(BadServiceFile::Encoding));
        assert_eq!(line(&[0xFF, 0xFE, 0, 0xD8]), Err(BadServiceFile::Encoding));
    }

    #[test]
    fn lengths() {
        let long = |len: usize| vec![b'a'; len];
        assert!(line(&long(MAX_FILE)).is_ok());
        assert_eq!(line(&long(MAX_FILE + 1)), Err(BadServiceFile::TooLong(MAX_FILE + 1)));
    }

    #[test]
    fn the_argument_replaces_its_mark_everywhere() {
        let with = |argument| ServiceLine::parse(b"a.exe \"%1\" x%1y %2", argument).unwrap().arguments;
        assert_eq!(with(Some("b+c")), " \"b+c\" xb+cy %2");
        assert_eq!(with(None), " \"\" xy %2");
        // A `%1` within the argument is not replaced.
        assert_eq!(ServiceLine::parse(b"%1", Some("a")).unwrap().program, "a");
    }

    #[test]
    fn where_a_program_is_looked_for() {
        let relative = |text: &str| ServiceLine::parse(text.as_bytes(), None).unwrap().is_relative();
        assert!(relative("a.exe") && relative("sub\\a.exe") && relative("ä:b"));
        assert!(!relative("c:\\a.exe") && !relative("\\\\host\\a") && !relative("/a") && !relative("C:a"));
        let line = ServiceLine::parse(b"a.exe  x", None).unwrap();
        assert_eq!(line.command_line("c:\\p q\\a.exe"), "\"c:\\p q\\a.exe\"  x");
        assert_eq!(line.command_line("c:\\a.exe"), "c:\\a.exe  x");
    }
}
