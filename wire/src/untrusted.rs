//! A value from outside that nobody has looked at yet.

use core::fmt;

/// A value as a peer sent it. There is no way to the inside but [`Untrusted::validate`], so that
/// "checked" and "unchecked" are two types and a forgotten check does not compile.
pub struct Untrusted<T>(T);

impl<T> Untrusted<T> {
    /// Marks a value as coming from outside.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// Hands the value to `check`, whose result is what the rest of the program works with.
    pub fn validate<U, E>(self, check: impl FnOnce(T) -> Result<U, E>) -> Result<U, E> {
        check(self.0)
    }
}

impl<T> fmt::Debug for Untrusted<T> {
    /// Says only that there is something: unchecked bytes have no place in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Untrusted(..)")
    }
}
