//! The footer of a fixed VHD, as Azure looks at it when an upload ends, and as it makes one for a disk that is exported.
//!
//! Written from Microsoft's "Virtual Hard Disk Image Format Specification", version 1.0, and on purpose not shared with the program that is
//! judged here.

/// Bytes of a footer.
pub const FOOTER: u64 = 512;

/// Why an upload cannot become a disk. The first sentence is Azure's own where it is known (AzureStorageExplorer issues 6347 and 6654).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVhd {
    /// There is no footer.
    #[error(
        "The specified cookie value in VHD footer indicates that disk '{name}' with blob {blob} is not a supported VHD. Disk is expected to \
         have cookie value 'conectix'."
    )]
    Cookie {
        /// The disk, as Azure names its blob.
        name: String,
        /// The blob's address, without its signature.
        blob: String,
    },
    /// It was damaged.
    #[error("The VHD footer of blob {blob} is corrupt: its checksum is {stored:#010x}, its bytes give {computed:#010x}.")]
    Checksum {
        /// The blob's address, without its signature.
        blob: String,
        /// The checksum in the footer.
        stored: u32,
        /// What it should be.
        computed: u32,
    },
    /// Dynamic or differencing.
    #[error("The VHD of blob {blob} is not a fixed VHD: its disk type is {kind}. Only fixed VHDs are supported.")]
    Kind {
        /// The blob's address, without its signature.
        blob: String,
        /// The type found.
        kind: u32,
    },
    /// It describes a disk of another size.
    #[error("The virtual size {found} in the VHD footer of blob {blob} is not the {expected} bytes that were to be uploaded.")]
    Size {
        /// The blob's address, without its signature.
        blob: String,
        /// The size in the footer.
        found: u64,
        /// The disk's.
        expected: u64,
    },
    /// No such disk, or it is not one that is uploaded.
    #[error("There is no upload to end at {0}.")]
    NoUpload(String),
}

fn be32(footer: &[u8], at: usize) -> u32 {
    footer[at..at + 4].iter().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn be64(footer: &[u8], at: usize) -> u64 {
    u64::from(be32(footer, at)) << 32 | u64::from(be32(footer, at + 4))
}

/// Ones' complement of the sum of all bytes but the checksum's own.
fn checksum(footer: &[u8]) -> u32 {
    let without = footer[..64].iter().chain(&footer[68..]);
    !without.map(|byte| u32::from(*byte)).sum::<u32>()
}

/// Looks at a footer.
///
/// # Errors
/// What is wrong with it.
pub fn check(footer: &[u8; FOOTER as usize], content: u64, name: &str, blob: &str) -> Result<(), InvalidVhd> {
    let blob = blob.to_owned();
    if &footer[..8] != b"conectix" {
        return Err(InvalidVhd::Cookie { name: name.to_owned(), blob });
    }
    let (stored, computed) = (be32(footer, 64), checksum(footer));
    if stored != computed {
        return Err(InvalidVhd::Checksum { blob, stored, computed });
    }
    let kind = be32(footer, 60);
    if kind != 2 {
        return Err(InvalidVhd::Kind { blob, kind });
    }
    let found = be64(footer, 48);
    if found != content {
        return Err(InvalidVhd::Size { blob, found, expected: content });
    }
    Ok(())
}

/// The footer that an exported disk ends with; `seconds` since 2000.
#[must_use]
pub fn make(content: u64, unique: [u8; 16], seconds: u32) -> [u8; FOOTER as usize] {
    let mut footer = [0; FOOTER as usize];
    let mut put = |at: usize, bytes: &[u8]| footer[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"conectix");
    put(8, &2u32.to_be_bytes());
    put(12, &0x1_0000u32.to_be_bytes());
    put(16, &u64::MAX.to_be_bytes());
    put(24, &seconds.to_be_bytes());
    put(28, b"win ");
    put(32, &0xa_0000u32.to_be_bytes());
    put(36, b"Wi2k");
    put(40, &content.to_be_bytes());
    put(48, &content.to_be_bytes());
    // No geometry can say such a size, and readers take the size where the creator is "win ".
    put(56, &[0xff, 0xff, 16, 255]);
    put(60, &2u32.to_be_bytes());
    put(68, &unique);
    let sum = checksum(&footer);
    footer[64..68].copy_from_slice(&sum.to_be_bytes());
    footer
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: u64 = 20 << 20;

    fn checked(change: impl FnOnce(&mut [u8; 512])) -> Result<(), InvalidVhd> {
        let mut footer = make(CONTENT, [7; 16], 1);
        change(&mut footer);
        check(&footer, CONTENT, "abcd", "https://h/c/abcd")
    }

    fn summed(footer: &mut [u8; 512]) {
        let sum = checksum(footer);
        footer[64..68].copy_from_slice(&sum.to_be_bytes());
    }

    #[test]
    fn what_azure_calls_invalid_vhd() {
        assert_eq!(checked(|_| ()), Ok(()));
        let none = checked(|footer| footer.fill(0)).unwrap_err();
        assert!(none.to_string().ends_with("Disk is expected to have cookie value 'conectix'."), "{none}");
        assert!(matches!(checked(|footer| footer[300] = 1), Err(InvalidVhd::Checksum { .. })));
        let dynamic = checked(|footer| {
            footer[63] = 3;
            summed(footer);
        });
        assert!(matches!(dynamic, Err(InvalidVhd::Kind { kind: 3, .. })));
        let small = checked(|footer| {
            footer[48..56].copy_from_slice(&(CONTENT - (1 << 20)).to_be_bytes());
            summed(footer);
        });
        assert!(matches!(small, Err(InvalidVhd::Size { expected: CONTENT, .. })));
    }
}
