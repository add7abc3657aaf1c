//! The name of a user, as `user=` and an answer of the policy may have it.

/// A user name that can stand in front of the colon of a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User(String);

/// What is wrong with a user's name, to be said behind what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadUser {
    /// There is nothing.
    #[error("is empty")]
    Empty,
    /// No account has so long a name.
    #[error("has {0} bytes, at most {max} are allowed", max = User::MAX)]
    TooLong(usize),
    /// A command line would be cut there, or a path would lead elsewhere.
    #[error("has a {0:?} in it, which no user's name can have")]
    BadChar(char),
}

impl User {
    /// The name that the target's daemon replaces by its VM's default user.
    pub const DEFAULT: &'static str = "DEFAULT";
    /// Longest name in bytes.
    const MAX: usize = 255;

    /// Accepts a name that is neither empty nor longer than 255 bytes and holds no colon, slash or
    /// control character: a command line is cut at its first colon.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn new(name: &str) -> Result<Self, BadUser> {
        if name.is_empty() {
            return Err(BadUser::Empty);
        }
        if name.len() > Self::MAX {
            return Err(BadUser::TooLong(name.len()));
        }
        match name.chars().find(|&c| c.is_control() || matches!(c, ':' | '/')) {
            Some(bad) => Err(BadUser::BadChar(bad)),
            None => Ok(Self(name.to_owned())),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for User {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_cannot_leave_its_place() {
        assert_eq!(User::new("user").map(|user| user.as_str().to_owned()), Ok("user".to_owned()));
        for bad in ["", "root:nogui", "a\nb", "a\0b", "../x", &"x".repeat(256)] {
            assert!(User::new(bad).is_err(), "{bad:?}");
        }
    }
}
