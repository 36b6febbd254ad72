//! The first bytes of a log file, and the small file that says how much of it is durable.

use super::{COUNT_MAX, Reader, VERSION, Writer, crc32c, newer};

/// Bytes of a log file's header; frames follow.
pub(crate) const BYTES: usize = 64;

const MAGIC: &[u8; 8] = b"TmLog\r\n\0";

/// What a log file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogHeader {
    pub(crate) uuid: [u8; 16],
    /// Its place among the logs; never used twice.
    pub(crate) number: u64,
    /// Where its first byte lies in the whole log: the sum of the lengths of all logs before.
    pub(crate) start: u64,
}

impl LogHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Writer::default();
        body.u32(VERSION)
            .bytes(&self.uuid)
            .u64(self.number)
            .u64(self.start)
            .bytes(&[0; 16]);
        let mut whole = Writer::default();
        whole.bytes(MAGIC).u32(crc32c(&body.0)).bytes(&body.0);
        whole.0
    }

    /// Reads a header. `None` if these bytes are not one, whole and unharmed.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes.get(..BYTES)?);
        if reader.array()? != *MAGIC || reader.u32()? != crc32c(&bytes[12..BYTES]) {
            return None;
        }
        if reader.u32()? > VERSION {
            return None;
        }
        let header = Self {
            uuid: reader.array()?,
            number: reader.u64()?,
            start: reader.u64()?,
        };
        (header.number.max(header.start) <= COUNT_MAX).then_some(header)
    }

    /// The version of a header that [`parse`](Self::parse) does not take because it is a newer one.
    pub(crate) fn newer(bytes: &[u8]) -> Option<u32> {
        newer(MAGIC, bytes.get(..BYTES)?)
    }

    /// What the checksums of this log's frames are mixed with, so that a frame of another log or
    /// directory, perhaps kept as a record's payload, is never taken for one of this.
    pub(crate) fn salt(&self) -> u32 {
        let mut writer = Writer::default();
        writer.bytes(&self.uuid).u64(self.number);
        crc32c(&writer.0)
    }
}

/// Bytes of the file `DURABLE`.
pub(crate) const DURABLE_BYTES: usize = 28;

/// How far readers in other processes may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Durable {
    /// Which manifest is current: rises with each.
    pub(crate) manifest: u64,
    /// The end of what is durable, as a place in the whole log.
    pub(crate) end: u64,
    /// The number of the log file it lies in.
    pub(crate) log: u64,
}

impl Durable {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Writer::default();
        body.u64(self.manifest).u64(self.end).u64(self.log);
        let crc = crc32c(&body.0);
        body.u32(crc);
        body.0
    }

    /// `None` where the bytes are torn or missing: a reader then keeps what it knew.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let durable = Self {
            manifest: reader.u64()?,
            end: reader.u64()?,
            log: reader.u64()?,
        };
        (reader.u32()? == crc32c(&bytes[..DURABLE_BYTES - 4])).then_some(durable)
    }
}
