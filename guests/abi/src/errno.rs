//! Error numbers, those of WASI preview 1.

use core::fmt;

/// Why an import failed. The numbers are WASI preview 1's (`wasi_snapshot_preview1.witx`); imports return them negated.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(u16);

macro_rules! errnos {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        impl Errno {
            $(#[doc = $text] pub const $name: Self = Self($number);)*

            /// The symbolic name, where this crate uses the number.
            pub fn name(self) -> Option<&'static str> {
                match self.0 { $($number => Some(stringify!($name)),)* _ => None }
            }

            /// What the number means, as a phrase.
            pub fn text(self) -> &'static str {
                match self.0 { $($number => $text,)* _ => "unknown error" }
            }
        }
    };
}

errnos! {
    ACCES = 2, "permission denied";
    ADDRINUSE = 3, "address in use";
    ADDRNOTAVAIL = 4, "address not available";
    AFNOSUPPORT = 5, "address family not supported";
    AGAIN = 6, "would block";
    BADF = 8, "no such socket";
    CONNABORTED = 13, "connection aborted";
    CONNREFUSED = 14, "connection refused";
    CONNRESET = 15, "connection reset";
    FAULT = 21, "pointer out of bounds";
    INVAL = 28, "invalid argument";
    ISCONN = 30, "already connected";
    MFILE = 33, "too many sockets";
    MSGSIZE = 35, "message too long";
    NOENT = 44, "no such entry";
    NOMEM = 48, "out of memory";
    NOSYS = 52, "not supported";
    NOTCONN = 53, "not connected";
    NOTSUP = 58, "operation not supported on this socket";
    PIPE = 64, "broken pipe";
    TIMEDOUT = 73, "timed out";
}

impl Errno {
    /// The number, positive.
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// The error with that positive number.
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// What an import returns for this error.
    pub const fn to_result(self) -> i32 {
        -(self.0 as i32)
    }

    /// Splits what an import returned into a count or an error.
    pub const fn check(returned: i32) -> Result<u32, Self> {
        if returned < 0 { Err(Self(returned.unsigned_abs() as u16)) } else { Ok(returned as u32) }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "Errno({})", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl core::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_cross_as_negative_numbers() {
        assert_eq!(Errno::check(Errno::AGAIN.to_result()), Err(Errno::AGAIN));
        assert_eq!(Errno::check(7), Ok(7));
        assert_eq!(Errno::check(i32::MIN), Err(Errno::from_raw(0)));
    }
}
