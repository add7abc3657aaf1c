//! Error codes of an answer: errno numbers of Linux, and one of the protocol's own.

use core::fmt;

/// The stream ended inside an entry.
pub const STREAM_BROKEN: u32 = 31_415_926;

/// An error code as it stands in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Code(pub u32);

impl Code {
    /// Everything has arrived.
    pub const GOOD: Self = Self(0);
    /// A folder on the way does not exist, or no longer does.
    pub const MISSING: Self = Self(2);
    /// Something of that name is there already.
    pub const EXISTS: Self = Self(17);
    /// A component on the way is no folder.
    pub const NOT_A_FOLDER: Self = Self(20);
    /// What was sent is not understood.
    pub const INVALID: Self = Self(22);
    /// The file system is full.
    pub const FULL: Self = Self(28);
    /// A name is too long.
    pub const NAME_TOO_LONG: Self = Self(36);
    /// A link that may not be made.
    pub const LINK: Self = Self(67);
    /// A name that may not be made.
    pub const NAME: Self = Self(84);
    /// The stream ended between two entries, without its end marker.
    pub const CUT: Self = Self(121);
    /// More than the receiver accepts.
    pub const QUOTA: Self = Self(122);
    /// The stream ended inside an entry.
    pub const BROKEN: Self = Self(STREAM_BROKEN);

    /// Whether everything has arrived.
    pub const fn is_good(self) -> bool {
        self.0 == 0
    }

    /// The code with its sign mended: some receivers send the refusal of a name as a negative number.
    #[must_use]
    pub const fn upright(self) -> Self {
        if self.0 >= 1 << 31 { Self(self.0.wrapping_neg()) } else { self }
    }

    /// The exit status of a receiver that gave this answer.
    pub const fn exit_status(self) -> u8 {
        self.0.to_le_bytes()[0]
    }

    /// The four bytes of the code, if they are text: the output of a login script may be read as an answer by mistake.
    pub fn as_text(self) -> Option<[u8; 4]> {
        let bytes = self.0.to_le_bytes();
        let printed = |byte: &u8| matches!(byte, 0x20..=0x7e | b'\n' | b'\r' | b'\t' | 0x1b);
        (bytes.iter().all(printed) && self.0 != STREAM_BROKEN).then_some(bytes)
    }

    /// The symbolic name, for logs.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.upright().0 {
            1 => "EPERM",
            2 => "ENOENT",
            5 => "EIO",
            12 => "ENOMEM",
            13 => "EACCES",
            17 => "EEXIST",
            18 => "EXDEV",
            20 => "ENOTDIR",
            21 => "EISDIR",
            22 => "EINVAL",
            24 => "EMFILE",
            27 => "EFBIG",
            28 => "ENOSPC",
            30 => "EROFS",
            31 => "EMLINK",
            36 => "ENAMETOOLONG",
            40 => "ELOOP",
            67 => "ENOLINK",
            84 => "EILSEQ",
            95 => "EOPNOTSUPP",
            121 => "EREMOTEIO",
            122 => "EDQUOT",
            _ => return None,
        })
    }

    /// One clause that says what happened at the receiver.
    pub const fn reason(self) -> Option<&'static str> {
        Some(match self.upright().0 {
            1 | 13 => "the receiver may not write there",
            2 => "its folder was moved or removed while it was copied",
            5 => "the receiver's disk failed",
            17 => "something of that name is already in the folder for incoming files",
            20 => "something on its way is not a folder at the receiver",
            22 => "the receiver does not understand what was sent",
            27 => "it is larger than the receiver's file system allows",
            28 => "the receiver's disk is full",
            30 => "the receiver's file system is read-only",
            36 => "its name is too long for the receiver",
            67 => "the receiver refuses where the link points",
            84 => "the receiver refuses its name",
            121 => "the connection ended before everything was sent",
            122 => "it is more than the receiver takes",
            STREAM_BROKEN => "the connection broke off in the middle of it",
            _ => return None,
        })
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason() {
            Some(reason) => f.write_str(reason),
            None => write!(f, "the receiver reported error {}", self.upright().0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn codes_are_understood_with_either_sign() {
        assert_eq!(Code(4_294_967_212).upright(), Code::NAME);
        assert_eq!(Code(4_294_967_212).name(), Some("EILSEQ"));
        assert_eq!(Code::BROKEN.exit_status(), 118);
        assert_eq!(Code(4_294_967_212).exit_status(), 172);
        assert_eq!(Code(9999).to_string(), "the receiver reported error 9999");
    }

    #[test]
    fn text_in_place_of_an_answer_is_seen() {
        assert_eq!(Code(174_945_902).as_text(), Some(*b"nvm\n"));
        for code in [0, 17, 31_415_926, 4_294_967_212] {
            assert_eq!(Code(code).as_text(), None, "{code}");
        }
    }
}
