//! The name of a user, as `user=` and an answer of the policy may have it.

/// A user name that can stand in front of the colon of a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User(String);

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
    /// What is wrong with it, to be said behind what it is.
    pub fn new(name: &str) -> Result<Self, String> {
        if name.is_empty() {
            return Err("is empty".to_owned());
        }
        if name.len() > Self::MAX {
            return Err(format!("has {} bytes, at most {} are allowed", name.len(), Self::MAX));
        }
        match name.chars().find(|&c| c.is_control() || matches!(c, ':' | '/')) {
            Some(bad) => Err(format!("has a {bad:?} in it, which no user's name can have")),
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
