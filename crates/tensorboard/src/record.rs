//! TFRecords: the frame around each message of an event file.

/// A TFRecord: length, its checksum, the data, its checksum.
pub(crate) fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(checksum(&length).to_le_bytes());
    record.extend(data);
    record.extend(checksum(data).to_le_bytes());
    record
}

/// CRC-32C, rotated and offset as TFRecords require: otherwise a checksum of data that holds checksums would be weak.
fn checksum(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The data of each record; the checksums must be right.
    pub(crate) fn records(mut bytes: &[u8]) -> Vec<&[u8]> {
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let sum = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            let data = &bytes[12..12 + length];
            assert_eq!(sum(8), bitwise_checksum(&bytes[..8]));
            assert_eq!(sum(12 + length), bitwise_checksum(data));
            records.push(data);
            bytes = &bytes[16 + length..];
        }
        records
    }

    /// The definition, bit by bit (Castagnoli's polynomial, reflected).
    fn bitwise_checksum(data: &[u8]) -> u32 {
        let mut crc = !0u32;
        for byte in data {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = crc >> 1 ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
            }
        }
        let crc = !crc;
        crc.rotate_right(15).wrapping_add(0xa282_ead8)
    }

    #[test]
    fn records_hold_their_sums() {
        let data: Vec<u8> = (0..200).collect();
        let mut bytes = record(&data);
        bytes.extend(record(b""));
        assert_eq!(records(&bytes), [&data[..], b""]);
        // The sum of RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
    }
}
