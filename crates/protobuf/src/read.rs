//! Reading messages.

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Field<'a> {
    /// An integer, an enumeration's value or a Boolean.
    Int(u64),
    /// A `double`, or another type of eight bytes.
    Double(f64),
    /// A `float`, or another type of four bytes.
    Float(f32),
    /// A `bytes`, a `string`, a message or a packed repeated field.
    Bytes(&'a [u8]),
}

/// The bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damaged;

impl std::fmt::Display for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("these bytes are not a protobuf message")
    }
}

impl std::error::Error for Damaged {}

/// Number and value of each field, in the order of the message.
///
/// # Errors
/// [`Damaged`], for bytes that end within a field, numbers of more than 64 bits, and the groups of old versions.
pub fn fields(mut bytes: &[u8]) -> Result<Vec<(u32, Field<'_>)>, Damaged> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let number = u32::try_from(key >> 3).map_err(|_| Damaged)?;
        let value = match key & 7 {
            0 => Field::Int(varint(&mut bytes)?),
            1 => Field::Double(f64::from_le_bytes(take_array(&mut bytes)?)),
            2 => {
                let len = usize::try_from(varint(&mut bytes)?).map_err(|_| Damaged)?;
                Field::Bytes(take(&mut bytes, len)?)
            }
            5 => Field::Float(f32::from_le_bytes(take_array(&mut bytes)?)),
            _ => return Err(Damaged),
        };
        fields.push((number, value));
    }
    Ok(fields)
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], Damaged> {
    let (front, rest) = bytes.split_at_checked(len).ok_or(Damaged)?;
    *bytes = rest;
    Ok(front)
}

fn take_array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Damaged> {
    take(bytes, N)?.try_into().map_err(|_| Damaged)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Damaged> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let [byte] = take_array(bytes)?;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            break;
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_bytes_are_refused() {
        let ten = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(fields(&ten), Ok(vec![(1, Field::Int(u64::MAX))]));
        let mut too_large = ten;
        too_large[10] = 2;
        let mut too_long = ten;
        too_long[10] = 0x81;
        // Bytes that end early, a length beyond the end, and the start of a group.
        for bytes in
            [&ten[..5], &too_large, &too_long, &[0x0d, 0, 0], &[0x09, 0], &[0x0a, 2, 0], &[0x0b], &[0x80]]
        {
            assert_eq!(fields(bytes), Err(Damaged), "{bytes:x?}");
        }
    }
}
