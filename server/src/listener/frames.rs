//! The bound on control frames of HTTP/2: each costs this side work, and none of them is a call.
//!
//! h2 answers PING and SETTINGS, and takes WINDOW_UPDATE, PRIORITY, RST_STREAM and empty DATA, as
//! fast as a peer sends them. So this module counts frames by their heads before h2 reads them.

use std::time::Duration;

use tokio::time::Instant;

/// HTTP/2's connection preface (RFC 9113, 3.4), and the length of a frame's head (4.1).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
/// The types of frames that carry a call (6.1, 6.2).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
/// DATA that is shorter carries next to nothing.
const DATA_MIN: usize = 16;
/// The control frames that a peer may send at once, and each second, for as long as it likes. Ours: a
/// client acknowledges pings and settings, ends streams that it no longer wants, and tells how much it
/// has read.
const AT_ONCE: u64 = 20_000;
const EACH_SECOND: u64 = 2_000;
/// The bytes of answers for which one more frame is granted: a client that reads much has much to
/// acknowledge. The answer to a PING has fewer bytes, so PINGs do not pay for themselves.
const BYTES_PER_FRAME: u64 = 64;

/// The count of one connection.
#[derive(Debug)]
pub(super) struct Frames {
    /// The part of the preface that has not come yet.
    preface: &'static [u8],
    /// True if the peer speaks another protocol, which has no frames.
    is_foreign: bool,
    /// Bytes to come before the next head.
    skipped: usize,
    head: [u8; HEAD],
    /// Bytes of the next head that are here.
    filled: usize,
    /// Frames that may still come.
    left: u64,
    /// Written bytes for which nothing was granted yet.
    written: u64,
    granted_at: Instant,
}

impl Frames {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            preface: PREFACE,
            is_foreign: false,
            skipped: 0,
            head: [0; HEAD],
            filled: 0,
            left: AT_ONCE,
            written: 0,
            granted_at: now,
        }
    }

    /// Counts bytes that were written to the peer.
    pub(super) fn wrote(&mut self, bytes: usize) {
        let written = self.written + u64::try_from(bytes).unwrap_or(u64::MAX);
        self.left = (self.left + written / BYTES_PER_FRAME).min(AT_ONCE);
        self.written = written % BYTES_PER_FRAME;
    }

    /// Looks at bytes that the peer has sent. False if it has sent more control frames than it may.
    pub(super) fn read(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) -> bool {
        let (expected, rest) = self.preface.split_at(self.preface.len().min(bytes.len()));
        let (preface, frames) = bytes.split_at(expected.len());
        self.is_foreign |= preface != expected;
        if self.is_foreign {
            return true;
        }
        (self.preface, bytes) = (rest, frames);
        while !bytes.is_empty() {
            let skipped = self.skipped.min(bytes.len());
            self.skipped -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let wanted = (HEAD - self.filled).min(bytes.len());
            let (more, rest) = bytes.split_at(wanted);
            for byte in more {
                if let Some(place) = self.head.get_mut(self.filled) {
                    *place = *byte;
                }
                self.filled += 1;
            }
            bytes = rest;
            if self.filled < HEAD {
                return true;
            }
            self.filled = 0;
            let [high, middle, low, kind, ..] = self.head;
            self.skipped = u32::from_be_bytes([0, high, middle, low]) as usize;
            let carries = kind == HEADERS || (kind == DATA && self.skipped >= DATA_MIN);
            if !carries && !self.takes(&now) {
                return false;
            }
        }
        true
    }

    /// Takes one control frame's place.
    fn takes(&mut self, now: impl Fn() -> Instant) -> bool {
        if self.left == 0 {
            let now = now();
            let since = now.saturating_duration_since(self.granted_at);
            self.granted_at = now;
            self.left = granted(since);
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

/// The control frames that time alone grants.
fn granted(since: Duration) -> u64 {
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    (millis.saturating_mul(EACH_SECOND) / 1_000).min(AT_ONCE)
}

#[cfg(test)]
mod tests;
