//! Protobuf messages and the records around them.

/// A protobuf message under way: fields in the order they are put, none with its default left out.
#[derive(Debug, Default)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The fields of another message, after those that are there.
    pub(crate) fn append(&mut self, other: Self) {
        self.bytes.extend(other.bytes);
    }

    pub(crate) fn int(&mut self, field: u32, value: u64) {
        self.key(field, 0);
        self.varint(value);
    }

    pub(crate) fn double(&mut self, field: u32, value: f64) {
        self.key(field, 1);
        self.bytes.extend(value.to_le_bytes());
    }

    pub(crate) fn float(&mut self, field: u32, value: f32) {
        self.key(field, 5);
        self.bytes.extend(value.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, field: u32, value: &[u8]) {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.bytes.extend(value);
    }

    pub(crate) fn message(&mut self, field: u32, value: &Self) {
        self.bytes(field, &value.bytes);
    }

    /// A packed repeated field.
    pub(crate) fn doubles(&mut self, field: u32, values: &[f64]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.bytes(field, &bytes);
    }

    fn key(&mut self, field: u32, wire_type: u32) {
        self.varint(u64::from(field << 3 | wire_type));
    }

    /// Seven bits a byte, the lowest first; the top bit says that more follow.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }
}

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

/// CRC-32C, turned and shifted as TFRecords want it: a checksum of data that holds checksums would be weak otherwise.
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

    /// Number and raw value of each field; integers below 2^56.
    pub(crate) fn fields(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        fn varint(bytes: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let byte = bytes[0];
                *bytes = &bytes[1..];
                value |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    break;
                }
            }
            value
        }
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let len = match key & 7 {
                0 => {
                    let value = varint(&mut bytes);
                    let len = value.to_le_bytes().iter().rposition(|byte| *byte != 0).map_or(1, |at| at + 1);
                    fields.push(((key >> 3) as u8, value.to_le_bytes()[..len].to_vec()));
                    continue;
                }
                1 => 8,
                2 => varint(&mut bytes) as usize,
                5 => 4,
                other => panic!("wire type {other}"),
            };
            fields.push(((key >> 3) as u8, bytes[..len].to_vec()));
            bytes = &bytes[len..];
        }
        fields
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
    fn numbers_as_protobuf_writes_them() {
        let mut message = Message::default();
        message.int(1, 150);
        message.int(2, 0);
        message.int(16, 1 << 40);
        message.doubles(6, &[1.0, -2.0]);
        // The first is the example of protobuf's documentation.
        assert_eq!(message.as_bytes()[..5], [0x08, 0x96, 0x01, 0x10, 0x00]);
        assert_eq!(message.as_bytes()[5..13], [0x80, 0x01, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20]);
        assert_eq!(message.as_bytes()[13..15], [6 << 3 | 2, 16]);
        let read = fields(message.as_bytes());
        assert_eq!(read[0], (1, vec![150]));
        assert_eq!(read[2], (16, vec![0, 0, 0, 0, 0, 1]));
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
