//! A ZIP archive of a few files, not compressed: the same bytes for the same files.

use crate::steps::Failure;

/// 1 January 1980, the first date that the format has.
const DATE: u16 = 0x0021;
/// Version of the format that folders want.
const NEEDED: u16 = 20;

/// The archive. A name that ends with `/` is a folder.
pub(crate) fn archive(entries: &[(String, Vec<u8>)]) -> Result<Vec<u8>, Failure> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let offset = size(out.len())?;
        let mut common = Vec::new();
        for field in [NEEDED, 0, 0, 0, DATE] {
            common.extend(field.to_le_bytes());
        }
        let len = size(bytes.len())?;
        for field in [checksum(bytes), len, len] {
            common.extend(field.to_le_bytes());
        }
        common.extend(u16::try_from(name.len()).map_err(|_| format!("{name}: too long"))?.to_le_bytes());
        out.extend(b"PK\x03\x04");
        out.extend(&common);
        // No further fields.
        out.extend([0, 0]);
        out.extend(name.as_bytes());
        out.extend(bytes);
        directory.extend(b"PK\x01\x02");
        directory.extend(NEEDED.to_le_bytes());
        directory.extend(&common);
        // No further fields, no comment, first disk, no attributes but that of a folder.
        directory.extend([0; 8]);
        directory.extend(if name.ends_with('/') { 0x10_u32 } else { 0 }.to_le_bytes());
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let count = u16::try_from(entries.len()).map_err(|_| "too many files")?;
    let (start, len) = (size(out.len())?, size(directory.len())?);
    out.extend(directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    for field in [count, count] {
        out.extend(field.to_le_bytes());
    }
    for field in [len, start] {
        out.extend(field.to_le_bytes());
    }
    out.extend([0, 0]);
    Ok(out)
}

fn size(len: usize) -> Result<u32, Failure> {
    u32::try_from(len).map_err(|_| "the archive is too large".to_owned())
}

/// CRC-32, bit by bit.
fn checksum(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xEDB8_8320 & 0_u32.wrapping_sub(sum & 1)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_known_one() {
        assert_eq!(checksum(b"123456789"), 0xCBF4_3926);
        assert_eq!(checksum(b""), 0);
    }

    #[test]
    fn others_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.zip");
        let entries = [
            ("a/b.txt".to_owned(), b"hello".to_vec()),
            ("a/c/".to_owned(), Vec::new()),
            ("d".to_owned(), vec![7; 9]),
        ];
        std::fs::write(&path, archive(&entries).unwrap()).unwrap();
        let script = "import sys,zipfile; z=zipfile.ZipFile(sys.argv[1]); print(z.testzip(), z.namelist(), z.read('a/b.txt'))";
        let said = std::process::Command::new("python3").args(["-c", script]).arg(&path).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "None ['a/b.txt', 'a/c/', 'd'] b'hello'");
    }
}
