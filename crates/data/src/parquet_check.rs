//! Checks what a parquet file declares before the crate parquet believes it.
//!
//! Its footer, and a header before each page, are structures of Thrift's compact protocol. parquet 60.1 takes as many steps as a list claims to have
//! elements, reserves the memory that a page, a dictionary or a group of columns claims to need, and decompresses whatever comes. Here the same
//! structures are read first, without keeping them, and refused unless the file has the bytes for what they declare. Each field must have the type
//! that the format gives it: the crate reads it as that whatever the file says, and so both see the same.
//!
//! Formats: <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md> and
//! <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

/// The first and last bytes of a file.
const MAGIC: &[u8; 4] = b"PAR1";
/// The footer's length and the magic bytes behind it.
const TAIL: u64 = 8;
/// CIFAR-10's training images have 2.2 MB in groups of 100 rows, and 4 kB in one group. The crate needs up to fifty times as much memory.
const MAX_FOOTER: u64 = 8 << 20;
/// Groups of rows. The crate reserves 200 bytes for each before it reads the first.
const MAX_GROUPS: i64 = 10_000;
/// Elements of the schema. The crate calls itself once for each level of groups.
const MAX_SCHEMA: i64 = 256;
/// All of CIFAR-10's images as one page.
const MAX_PAGE: i64 = 128 << 20;
/// All pages of a file, decompressed.
const MAX_PAGES: i64 = 1 << 30;
/// The crate reserves 32 bytes for each.
const MAX_DICTIONARY: i64 = 1 << 20;
/// No png is smaller. A row for fewer bytes of the file repeats an image.
const MIN_IMAGE: u64 = 64;
/// Structures within structures and lists; the format has eight.
const MAX_DEPTH: usize = 32;

/// What a field of the format holds.
enum Type {
    Bool,
    Byte,
    I16,
    I32,
    I64,
    Double,
    Binary,
    List(&'static Type),
    Struct(Fields),
}

use Type::{Binary, Bool, Byte, Double, I16, I32, I64, List, Struct};

/// The known fields of a structure, by their numbers.
type Fields = &'static [(i16, Type)];

const EMPTY: Type = Struct(&[]);
const KEY_VALUE: Type = Struct(&[(1, Binary), (2, Binary)]);
#[rustfmt::skip]
const STATISTICS: Type = Struct(&[
    (1, Binary), (2, Binary), (3, I64), (4, I64), (5, Binary), (6, Binary), (7, Bool), (8, Bool), (9, I64),
]);
const TIME: Type = Struct(&[(1, Bool), (2, Struct(&[(1, EMPTY), (2, EMPTY), (3, EMPTY)]))]);
#[rustfmt::skip]
const LOGICAL_TYPE: Type = Struct(&[
    (1, EMPTY), (2, EMPTY), (3, EMPTY), (4, EMPTY), (5, Struct(&[(1, I32), (2, I32)])), (6, EMPTY), (7, TIME), (8, TIME),
    (10, Struct(&[(1, Byte), (2, Bool)])), (11, EMPTY), (12, EMPTY), (13, EMPTY), (14, EMPTY), (15, EMPTY),
    (16, Struct(&[(1, Byte)])), (17, Struct(&[(1, Binary)])), (18, Struct(&[(1, Binary), (2, I32)])), (19, EMPTY),
]);
#[rustfmt::skip]
const SCHEMA_ELEMENT: Type = Struct(&[
    (1, I32), (2, I32), (3, I32), (4, Binary), (5, I32), (6, I32), (7, I32), (8, I32), (9, I32), (10, LOGICAL_TYPE),
]);
#[rustfmt::skip]
const BOUNDING_BOX: Type = Struct(&[
    (1, Double), (2, Double), (3, Double), (4, Double), (5, Double), (6, Double), (7, Double), (8, Double),
]);
#[rustfmt::skip]
const COLUMN_META_DATA: Type = Struct(&[
    (1, I32), (2, List(&I32)), (3, List(&Binary)), (4, I32), (5, I64), (6, I64), (7, I64), (8, List(&KEY_VALUE)), (9, I64),
    (10, I64), (11, I64), (12, STATISTICS), (13, List(&Struct(&[(1, I32), (2, I32), (3, I32)]))), (14, I64), (15, I32),
    (16, Struct(&[(1, I64), (2, List(&I64)), (3, List(&I64))])), (17, Struct(&[(1, BOUNDING_BOX), (2, List(&I32))])),
]);
#[rustfmt::skip]
const COLUMN_CHUNK: Type = Struct(&[
    (1, Binary), (2, I64), (3, COLUMN_META_DATA), (4, I64), (5, I32), (6, I64), (7, I32),
]);
#[rustfmt::skip]
const ROW_GROUP: Type = Struct(&[
    (1, List(&COLUMN_CHUNK)), (2, I64), (3, I64), (4, List(&Struct(&[(1, I32), (2, Bool), (3, Bool)]))), (5, I64), (6, I64),
    (7, I16),
]);
#[rustfmt::skip]
const FOOTER: Fields = &[
    (1, I32), (2, List(&SCHEMA_ELEMENT)), (3, I64), (4, List(&ROW_GROUP)), (5, List(&KEY_VALUE)), (6, Binary),
    (7, List(&Struct(&[(1, EMPTY), (2, EMPTY), (3, EMPTY)]))),
];
#[rustfmt::skip]
const PAGE_HEADER: Fields = &[
    (1, I32), (2, I32), (3, I32), (4, I32), (5, Struct(&[(1, I32), (2, I32), (3, I32), (4, I32), (5, STATISTICS)])),
    (6, EMPTY), (7, Struct(&[(1, I32), (2, I32), (3, Bool)])),
    (8, Struct(&[(1, I32), (2, I32), (3, I32), (4, I32), (5, I32), (6, I32), (7, Bool), (8, STATISTICS)])),
];

/// The pages of a column in a group of rows.
struct Chunk {
    codec: i64,
    bytes: i64,
    start: i64,
}

/// Reads the footer of a file and the headers of all its pages.
///
/// # Errors
/// What the file declares without having it, in the words that follow "is not a parquet file of CIFAR-10, since".
pub(crate) fn check(file: &File) -> Result<(), String> {
    let mut file = BufReader::new(file);
    let length = file.seek(SeekFrom::End(0)).map_err(reason)?;
    let chunks = footer(&mut file, length)?;
    let mut left = MAX_PAGES;
    chunks.iter().try_for_each(|chunk| pages(&mut file, chunk, &mut left))
}

const CUT: &str = "it ends too early";

fn reason(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => CUT.to_owned(),
        _ => error.to_string(),
    }
}

/// Checks the footer and returns where the pages are.
fn footer(file: &mut (impl Read + Seek), length: u64) -> Result<Vec<Chunk>, String> {
    if length < MAGIC.len() as u64 + TAIL {
        return Err(format!("it has {length} bytes"));
    }
    let mut tail = [0; TAIL as usize];
    file.seek(SeekFrom::Start(length - TAIL)).and_then(|_| file.read_exact(&mut tail)).map_err(reason)?;
    let [a, b, c, d, magic @ ..] = tail;
    if magic != *MAGIC {
        return Err("it does not end with PAR1".to_owned());
    }
    let footer = u64::from(u32::from_le_bytes([a, b, c, d]));
    if footer > length - TAIL || footer > MAX_FOOTER {
        return Err(format!("its footer claims to have {footer} bytes"));
    }
    file.seek(SeekFrom::Start(length - TAIL - footer)).map_err(reason)?;

    let (mut chunks, mut rows, mut bytes) = (Vec::<Chunk>::new(), 0_i64, 0_i64);
    Walker { input: file, left: footer }.walk(FOOTER, &mut |path, value| {
        match (path, chunks.last_mut()) {
            ([2], _) if value > MAX_SCHEMA => {
                return Err(format!("its schema claims to have {value} elements"));
            }
            ([4], _) if value > MAX_GROUPS => {
                return Err(format!("it claims to have {value} groups of rows"));
            }
            // Not more than there are elements.
            ([2, 5], _) if !(0..=MAX_SCHEMA).contains(&value) => {
                return Err(format!("a group of its schema claims to have {value} fields"));
            }
            ([4, 3], _) => {
                rows = rows.saturating_add(value);
                if value < 0 || rows as u64 > length / MIN_IMAGE {
                    return Err(format!("it claims to have {rows} rows in {length} bytes"));
                }
            }
            // The first of those that are needed. The crate refuses a chunk without it.
            ([4, 1, 3, 4], _) => {
                check_codec(value)?;
                chunks.push(Chunk { codec: value, bytes: 0, start: 0 });
            }
            ([4, 1, 3, 7], Some(chunk)) => {
                chunk.bytes = value;
                bytes = bytes.saturating_add(value);
                if value < 0 || bytes as u64 > length {
                    return Err(format!("its pages claim to have {bytes} bytes of {length}"));
                }
            }
            // Of the first data page, and of the dictionary before it if there is one.
            ([4, 1, 3, 9 | 11], Some(chunk)) => chunk.start = value,
            _ => {}
        }
        Ok(())
    })?;
    Ok(chunks)
}

/// The others are decompressed by the crate to whatever they contain, not to what the page declares.
fn check_codec(codec: i64) -> Result<(), String> {
    let name = match codec {
        0 | 1 | 6 | 7 => return Ok(()),
        2 => "gzip",
        4 => "Brotli",
        5 => "the former LZ4",
        _ => "an unknown method",
    };
    Err(format!(
        "it is compressed by {name} (of compressed files those by Snappy, Zstandard and LZ4_RAW are read)"
    ))
}

/// Checks the pages of a chunk, as the crate walks through them; `left` is what all pages to come may have.
fn pages(file: &mut (impl Read + Seek), chunk: &Chunk, left: &mut i64) -> Result<(), String> {
    let start = chunk.start;
    let mut at = u64::try_from(start).map_err(|_| format!("a page is claimed to be at {start}"))?;
    let end = at + chunk.bytes as u64;
    while at < end {
        file.seek(SeekFrom::Start(at)).map_err(reason)?;
        let (mut compressed, mut decompressed) = (0, 0);
        let mut walker = Walker { input: &mut *file, left: end - at };
        walker.walk(PAGE_HEADER, &mut |path, value| {
            match path {
                // An index page, which nobody writes and the crate does not always skip.
                [1] if ![0, 2, 3].contains(&value) => return Err(format!("a page is of the type {value}")),
                [2] | [3] if !(0..=MAX_PAGE).contains(&value) => {
                    return Err(format!("a page claims to have {value} bytes"));
                }
                [2] => decompressed = value,
                [3] => compressed = value,
                [7, 1] if value > MAX_DICTIONARY => {
                    return Err(format!("a dictionary claims to have {value} values"));
                }
                // Plain, of a dictionary, or runs of the same. The others have counts of their own, which the crate believes.
                [5, 2] | [7, 2] | [8, 4] if ![0, 2, 3, 8].contains(&value) => {
                    return Err(format!("a page has the encoding {value}, which is not read"));
                }
                _ => {}
            }
            Ok(())
        })?;
        at = end - walker.left + compressed as u64;
        if at > end {
            return Err(format!("a page claims to have {compressed} bytes, more than its column"));
        }
        *left -= if chunk.codec == 0 { compressed } else { decompressed };
        if *left < 0 {
            return Err(format!("its pages claim to have more than {MAX_PAGES} bytes"));
        }
    }
    Ok(())
}

/// Walks through a structure of Thrift's compact protocol.
struct Walker<R> {
    input: R,
    /// Bytes that the structure may still have.
    left: u64,
}

/// Takes the numbers of the fields that lead to a value, and the value: an integer, or the length of a list.
type See<'a> = &'a mut dyn FnMut(&[i16], i64) -> Result<(), String>;

/// The protocol's numbers of types.
mod wire {
    pub(super) const TRUE: u8 = 1;
    pub(super) const FALSE: u8 = 2;
    pub(super) const BYTE: u8 = 3;
    pub(super) const I16: u8 = 4;
    pub(super) const I32: u8 = 5;
    pub(super) const I64: u8 = 6;
    pub(super) const DOUBLE: u8 = 7;
    pub(super) const BINARY: u8 = 8;
    pub(super) const LIST: u8 = 9;
    pub(super) const SET: u8 = 10;
    pub(super) const STRUCT: u8 = 12;
}

impl Type {
    fn is(&self, wire: u8) -> bool {
        match self {
            Bool => matches!(wire, wire::TRUE | wire::FALSE),
            Byte => wire == wire::BYTE,
            I16 => wire == wire::I16,
            I32 => wire == wire::I32,
            I64 => wire == wire::I64,
            Double => wire == wire::DOUBLE,
            Binary => wire == wire::BINARY,
            List(_) => wire == wire::LIST,
            Struct(_) => wire == wire::STRUCT,
        }
    }
}

impl<R: Read> Walker<R> {
    fn walk(&mut self, fields: Fields, see: See<'_>) -> Result<(), String> {
        self.structure(fields, &mut Vec::new(), 0, see)
    }

    fn structure(
        &mut self,
        fields: Fields,
        path: &mut Vec<i16>,
        depth: usize,
        see: See<'_>,
    ) -> Result<(), String> {
        let mut last = 0;
        loop {
            let header = self.byte()?;
            if header == 0 {
                return Ok(());
            }
            let number = match header >> 4 {
                0 => i16::try_from(self.integer()?).unwrap_or(0),
                more => i16::saturating_add(last, more.into()),
            };
            // Each number once, in its order, as everybody writes them.
            if number <= last {
                return Err(format!("its field {number} follows field {last}"));
            }
            last = number;
            let known = fields.iter().find(|field| field.0 == number).map(|field| &field.1);
            path.push(number);
            self.value(header & 15, known, path, depth + 1, see)?;
            path.pop();
        }
    }

    fn value(
        &mut self,
        wire: u8,
        known: Option<&'static Type>,
        path: &mut Vec<i16>,
        depth: usize,
        see: See<'_>,
    ) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err("it is nested too deep".to_owned());
        }
        if known.is_some_and(|known| !known.is(wire)) {
            return Err(format!("its field {path:?} is of the type {wire}"));
        }
        match wire {
            wire::TRUE | wire::FALSE => Ok(()),
            wire::BYTE => self.byte().map(|_| ()),
            wire::I16 | wire::I32 | wire::I64 => {
                let value = self.integer()?;
                let bits = match wire {
                    wire::I16 => 16,
                    wire::I32 => 32,
                    _ => 64,
                };
                // The crate would take the lower ones.
                if value << (64 - bits) >> (64 - bits) != value {
                    return Err(format!("its field {path:?} has the value {value}"));
                }
                see(path, value)
            }
            wire::DOUBLE => self.skip(8),
            wire::BINARY => {
                let length = self.unsigned()?;
                self.skip(length)
            }
            wire::LIST | wire::SET => {
                let header = self.byte()?;
                let count = match header >> 4 {
                    15 => self.unsigned()?,
                    count => count.into(),
                };
                // The crate takes a step for each, and no byte for some that are true or false.
                let element = header & 15;
                if count > self.left || count > 0 && matches!(element, wire::TRUE | wire::FALSE) {
                    return Err(format!("its field {path:?} claims to have {count} elements"));
                }
                see(path, count as i64)?;
                let known = match known {
                    Some(List(element)) => Some(*element),
                    _ => None,
                };
                (0..count).try_for_each(|_| self.value(element, known, path, depth + 1, see))
            }
            wire::STRUCT => {
                let fields = match known {
                    Some(Struct(fields)) => *fields,
                    _ => &[],
                };
                self.structure(fields, path, depth, see)
            }
            _ => Err(format!("its field {path:?} is of the type {wire}")),
        }
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.left = self.left.checked_sub(1).ok_or(CUT)?;
        let mut byte = [0];
        self.input.read_exact(&mut byte).map_err(reason)?;
        Ok(byte[0])
    }

    fn skip(&mut self, bytes: u64) -> Result<(), String> {
        self.left = self.left.checked_sub(bytes).ok_or(CUT)?;
        let skipped = io::copy(&mut self.input.by_ref().take(bytes), &mut io::sink()).map_err(reason)?;
        if skipped == bytes { Ok(()) } else { Err(CUT.to_owned()) }
    }

    /// A number of seven bits for each byte, the lowest ones first.
    fn unsigned(&mut self) -> Result<u64, String> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number in it has more than 64 bits".to_owned())
    }

    /// A number with its sign in the lowest bit.
    fn integer(&mut self) -> Result<i64, String> {
        let value = self.unsigned()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::parquet::{png, write_parquet};
    use std::fs;
    use std::io::Write;
    use tempfile::TempDir;

    fn outcome(bytes: &[u8]) -> Result<(), String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        check(&file)
    }

    /// A field whose number is greater by `delta` than that of the one before.
    fn field(delta: u8, wire: u8, value: &[u8]) -> Vec<u8> {
        [&[delta << 4 | wire], value].concat()
    }

    fn unsigned(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value > 0x7f {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    fn integer(delta: u8, wire: u8, value: i64) -> Vec<u8> {
        field(delta, wire, &unsigned((value << 1 ^ value >> 63) as u64))
    }

    fn list(delta: u8, element: u8, count: u64, elements: &[u8]) -> Vec<u8> {
        field(delta, wire::LIST, &[&[0xf0 | element], unsigned(count).as_slice(), elements].concat())
    }

    /// A file with these fields in its footer, behind some pages.
    fn file(pages: &[u8], fields: &[Vec<u8>]) -> Vec<u8> {
        let footer = [fields.concat(), vec![0]].concat();
        let length = (footer.len() as u32).to_le_bytes();
        [MAGIC, pages, &footer, &length, MAGIC].concat()
    }

    /// A file with a group of rows of one column, which has these pages.
    fn column(codec: i64, bytes: i64, pages: &[u8]) -> Vec<u8> {
        let meta_data = [
            integer(4, wire::I32, codec),
            integer(3, wire::I64, bytes),
            integer(2, wire::I64, MAGIC.len() as i64),
            vec![0],
        ];
        let chunk = [field(3, wire::STRUCT, &meta_data.concat()), vec![0]].concat();
        let group = [list(1, wire::STRUCT, 1, &chunk), vec![0]].concat();
        file(pages, &[list(4, wire::STRUCT, 1, &group)])
    }

    /// A page of the size that its header declares, unless that is too large for a test.
    fn page(fields: &[Vec<u8>], size: i64) -> Vec<u8> {
        [fields.concat(), vec![0; 1 + size.clamp(0, 100) as usize]].concat()
    }

    fn data_page(decompressed: i64, compressed: i64, encoding: i64) -> Vec<u8> {
        let header = [integer(1, wire::I32, 3), integer(1, wire::I32, encoding), vec![0]].concat();
        let sizes = [0, decompressed, compressed].map(|size| integer(1, wire::I32, size));
        page(&[sizes.concat(), field(2, wire::STRUCT, &header)], compressed)
    }

    /// A page of the kind that `delta` tells, with this header.
    fn other_page(kind: i64, delta: u8, header: Vec<u8>) -> Vec<u8> {
        let sizes = [kind, 0, 0].map(|value| integer(1, wire::I32, value));
        page(&[sizes.concat(), field(delta, wire::STRUCT, &[header, vec![0]].concat())], 0)
    }

    #[test]
    fn a_file_that_declares_what_it_has_is_accepted() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("0000.parquet");
        write_parquet(&path, &[(png(2, 32, 32), 3), (png(3, 32, 32), 3)]);
        assert_eq!(outcome(&fs::read(path).unwrap()), Ok(()));
        assert_eq!(outcome(&file(b"", &[])), Ok(()));
        for pages in
            [data_page(MAX_PAGE, 10, 0), other_page(2, 4, integer(1, wire::I32, MAX_DICTIONARY)), vec![]]
        {
            assert_eq!(outcome(&column(1, pages.len() as i64, &pages)), Ok(()));
        }
        // Fields that nobody knows yet.
        let strings = list(2, wire::BINARY, 2, b"\x01a\x02bc");
        assert_eq!(outcome(&file(b"", &[field(12, wire::STRUCT, &[strings, vec![0]].concat())])), Ok(()));
    }

    #[test]
    fn a_footer_that_declares_more_than_it_has_is_refused() {
        let element = |fields: Vec<u8>| list(2, wire::STRUCT, 1, &[fields, vec![0]].concat());
        let group = |fields: Vec<u8>| list(4, wire::STRUCT, 1, &[fields, vec![0]].concat());
        let cases = [
            (b"PAR1".to_vec(), "it has 4 bytes"),
            ([file(b"", &[]), vec![0]].concat(), "it does not end with PAR1"),
            ([MAGIC, [9, 0, 0, 0].as_slice(), MAGIC].concat(), "its footer claims to have 9 bytes"),
            (file(b"", &[vec![0; 8 << 20]]), "its footer claims to have 8388609 bytes"),
            (
                file(b"", &[list(10, wire::STRUCT, u32::MAX.into(), &[])]),
                "its field [10] claims to have 4294967295 elements",
            ),
            (file(b"", &[list(10, wire::TRUE, 2, &[1, 2])]), "its field [10] claims to have 2 elements"),
            (file(b"", &[list(2, wire::STRUCT, 257, &[0; 257])]), "its schema claims to have 257 elements"),
            (
                file(b"", &[list(4, wire::STRUCT, 10_001, &[0; 10_001])]),
                "it claims to have 10001 groups of rows",
            ),
            (
                file(b"", &[element(integer(5, wire::I32, 1 << 30))]),
                "a group of its schema claims to have 1073741824 fields",
            ),
            (
                file(b"", &[element(integer(5, wire::I32, -1))]),
                "a group of its schema claims to have -1 fields",
            ),
            (file(b"", &[element(integer(5, wire::I64, 1))]), "its field [2, 5] is of the type 6"),
            (
                file(b"", &[element(integer(5, wire::I32, 1 << 31))]),
                "its field [2, 5] has the value 2147483648",
            ),
            (file(b"", &[group(integer(3, wire::I64, 2))]), "it claims to have 2 rows in 19 bytes"),
            (file(b"", &[group(integer(3, wire::I64, -1))]), "it claims to have -1 rows in"),
            (file(b"", &[integer(1, wire::I32, 1), integer(0, wire::I32, 1)]), "its field 1 follows field 1"),
            (file(b"", &[field(10, 11, &[0])]), "its field [10] is of the type 11"),
            (file(b"", &[field(10, wire::LIST, &[0x19; 40])]), "it is nested too deep"),
            (file(b"", &[field(10, wire::BINARY, &[5])]), "it ends too early"),
            (file(b"", &[field(10, wire::I64, &[0xff; 11])]), "a number in it has more than 64 bits"),
            (column(2, 0, b""), "it is compressed by gzip ("),
            (column(3, 0, b""), "it is compressed by an unknown method ("),
            (column(4, 0, b""), "it is compressed by Brotli ("),
            (column(5, 0, b""), "it is compressed by the former LZ4 ("),
            (column(0, 1 << 40, b""), "its pages claim to have 1099511627776 bytes of"),
            (column(0, -1, b""), "its pages claim to have -1 bytes of"),
        ];
        for (bytes, expected) in cases {
            let error = outcome(&bytes).expect_err(expected);
            assert!(error.starts_with(expected), "{error} instead of {expected}");
        }
    }

    #[test]
    fn a_page_that_declares_more_than_it_may_is_refused() {
        let cases = [
            (data_page(MAX_PAGE + 1, 10, 0), "a page claims to have 134217729 bytes"),
            (data_page(10, MAX_PAGE + 1, 0), "a page claims to have 134217729 bytes"),
            (data_page(-1, 10, 0), "a page claims to have -1 bytes"),
            (data_page(10, 1000, 0), "a page claims to have 1000 bytes, more than its column"),
            (data_page(10, 10, 5), "a page has the encoding 5, which is not read"),
            (data_page(MAX_PAGE, 10, 0).repeat(9), "its pages claim to have more than 1073741824 bytes"),
            (other_page(1, 3, vec![]), "a page is of the type 1"),
            (
                other_page(2, 4, integer(1, wire::I32, MAX_DICTIONARY + 1)),
                "a dictionary claims to have 1048577 values",
            ),
            (other_page(3, 5, integer(4, wire::I32, 7)), "a page has the encoding 7, which is not read"),
            (vec![0x15], "it ends too early"),
        ];
        for (pages, expected) in cases {
            let error = outcome(&column(1, pages.len() as i64, &pages)).expect_err(expected);
            assert!(error.starts_with(expected), "{error} instead of {expected}");
        }
    }
}
