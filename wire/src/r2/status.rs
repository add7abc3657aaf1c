//! How a process ended, as `wait(2)` says it.

/// A wait status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitStatus(pub i32);

impl WaitStatus {
    /// The status of a process that exited with this code. A status has room for 8 bits: any other code becomes 255.
    pub const fn exited(code: i32) -> Self {
        Self(if code >= 0 && code <= 255 { code << 8 } else { 255 << 8 })
    }

    /// The exit code, if the process exited by itself.
    pub const fn code(self) -> Option<i32> {
        if self.0 & 0x7f == 0 { Some((self.0 >> 8) & 0xff) } else { None }
    }

    /// The exit code of a client: 255 unless the process exited by itself.
    pub const fn client_status(self) -> i32 {
        match self.code() {
            Some(code) => code,
            None => 255,
        }
    }

    /// As it goes over the wire.
    pub const fn to_bytes(self) -> [u8; 4] {
        self.0.to_le_bytes()
    }

    /// What these bytes say.
    pub const fn from_bytes(bytes: [u8; 4]) -> Self {
        Self(i32::from_le_bytes(bytes))
    }
}
