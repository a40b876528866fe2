//! Messages in protobuf's [wire format](https://protobuf.dev/programming-guides/encoding/), written field by field.
//!
//! For programs that write a dozen messages of a format: they name the fields by their numbers and need neither a `.proto` file nor a compiler for
//! it.
//!
//! ```
//! use pointwise_protobuf::{Field, Message, fields};
//!
//! # fn main() -> Result<(), pointwise_protobuf::Damaged> {
//! let mut point = Message::default();
//! point.int(1, 150);
//! point.string(2, "corner");
//! assert_eq!(point.as_bytes()[..3], [0x08, 0x96, 0x01]);
//! assert_eq!(fields(point.as_bytes())?, [(1, Field::Int(150)), (2, Field::Bytes(b"corner"))]);
//! # Ok(())
//! # }
//! ```

mod read;

pub use read::{Damaged, Field, fields};

/// A message: fields in the order in which they are added; those with default values are written too.
#[derive(Debug, Default)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// The bytes of the message so far.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes of the message.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Appends the fields of another message.
    pub fn append(&mut self, other: Self) {
        self.bytes.extend(other.bytes);
    }

    /// Appends an integer, an enumeration's value or, as 0 or 1, a Boolean.
    pub fn int(&mut self, field: u32, value: u64) {
        self.key(field, 0);
        self.varint(value);
    }

    /// Appends a `double`.
    pub fn double(&mut self, field: u32, value: f64) {
        self.key(field, 1);
        self.bytes.extend(value.to_le_bytes());
    }

    /// Appends a `float`.
    pub fn float(&mut self, field: u32, value: f32) {
        self.key(field, 5);
        self.bytes.extend(value.to_le_bytes());
    }

    /// Appends a `bytes`.
    pub fn bytes(&mut self, field: u32, value: &[u8]) {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.bytes.extend(value);
    }

    /// Appends a `string`.
    pub fn string(&mut self, field: u32, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    /// Appends a message within this one.
    pub fn message(&mut self, field: u32, value: &Self) {
        self.bytes(field, &value.bytes);
    }

    /// Appends a packed repeated `double`.
    pub fn doubles(&mut self, field: u32, values: &[f64]) {
        self.key(field, 2);
        self.varint(size_of_val(values) as u64);
        self.bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    /// Appends the little-endian bytes of many `float`s, as a `bytes`.
    pub fn raw_floats(&mut self, field: u32, values: &[f32]) {
        self.key(field, 2);
        self.varint(size_of_val(values) as u64);
        self.bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_protobuf_writes_them() {
        let mut message = Message::default();
        message.int(1, 150);
        message.int(2, 0);
        message.int(16, 1 << 40);
        message.doubles(6, &[1.0, -2.0]);
        message.raw_floats(7, &[1.5]);
        // The first is the example of protobuf's documentation.
        assert_eq!(message.as_bytes()[..5], [0x08, 0x96, 0x01, 0x10, 0x00]);
        assert_eq!(message.as_bytes()[5..13], [0x80, 0x01, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20]);
        assert_eq!(message.as_bytes()[13..15], [6 << 3 | 2, 16]);
        let doubles = [1.0f64.to_le_bytes(), (-2.0f64).to_le_bytes()].concat();
        assert_eq!(
            fields(message.as_bytes()).unwrap(),
            [
                (1, Field::Int(150)),
                (2, Field::Int(0)),
                (16, Field::Int(1 << 40)),
                (6, Field::Bytes(&doubles)),
                (7, Field::Bytes(&1.5f32.to_le_bytes())),
            ]
        );
    }

    #[test]
    fn every_type_is_read_as_it_was_written() {
        let mut inner = Message::default();
        inner.string(1, "ä");
        let mut message = Message::default();
        message.int(536_870_911, u64::MAX);
        message.double(3, 0.1);
        message.float(4, -0.5);
        message.message(5, &inner);
        let mut more = Message::default();
        more.bytes(5, &[]);
        message.append(more);
        assert_eq!(
            fields(message.as_bytes()).unwrap(),
            [
                (536_870_911, Field::Int(u64::MAX)),
                (3, Field::Double(0.1)),
                (4, Field::Float(-0.5)),
                (5, Field::Bytes(inner.as_bytes())),
                (5, Field::Bytes(&[])),
            ]
        );
        assert_eq!(message.as_bytes(), message.as_bytes().to_vec());
    }
}
