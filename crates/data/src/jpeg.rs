//! Whether a JPEG file is whole.
//!
//! Decoders fill what a file lacks with grey, as browsers do, and say nothing. Here every scan is read through to its last
//! block, without computing a pixel, so that a file that was cut or overwritten is refused. Names and figures are those of
//! ITU-T T.81, the standard.

const SOF_BASELINE: u8 = 0xC0;
const SOF_EXTENDED: u8 = 0xC1;
const SOF_PROGRESSIVE: u8 = 0xC2;
const DHT: u8 = 0xC4;
const RST0: u8 = 0xD0;
const RST7: u8 = 0xD7;
const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;
const DRI: u8 = 0xDD;

/// Red, green, blue and black.
const MAX_COMPONENTS: u8 = 4;
/// Encoders make about ten scans. Each costs time for the whole image, however few bytes it has.
const MAX_SCANS: usize = 1000;

const CUT: &str = "it is cut short";
const DAMAGED: &str = "its compressed data is damaged";
const HEADER: &str = "its header is damaged";

/// Checks that every component of the image has all of its blocks with all of their bits, that each code is one of the file's tables, and that the
/// file has its end marker. Whatever follows that (a second picture, padding) is ignored.
///
/// For files that a decoder has accepted, with the width and height that it found; an error says what is wrong, in a few words.
pub(crate) fn check(bytes: &[u8], size: (u32, u32)) -> Result<(), &'static str> {
    let mut reader = Reader { bytes, at: 2 };
    let mut frame: Option<Frame> = None;
    let mut tables = Tables::default();
    let mut interval = 0;
    loop {
        match reader.marker()? {
            EOI => break,
            kind @ (SOF_BASELINE | SOF_EXTENDED | SOF_PROGRESSIVE) if frame.is_none() => {
                frame = Some(Frame::new(reader.segment()?, kind == SOF_PROGRESSIVE, size)?);
            }
            DHT => tables.read(reader.segment()?)?,
            DRI => match reader.segment()? {
                [high, low, ..] => interval = usize::from(u16::from_be_bytes([*high, *low])),
                _ => return Err(HEADER),
            },
            SOS => {
                let frame = frame.as_mut().ok_or(HEADER)?;
                let scan = Scan::new(reader.segment()?, frame)?;
                // A frame of a film without tables of its own, which the decoder fills in.
                if !tables.any {
                    return Ok(());
                }
                scan.walk(&mut reader, frame, &tables, interval)?;
            }
            RST0..=RST7 | SOI | 0x01 => {}
            _ => {
                reader.segment()?;
            }
        }
    }
    let whole = |component: &Component| component.missing_bits == [0; 64];
    let whole = frame.is_some_and(|frame| frame.components.iter().all(whole));
    if whole { Ok(()) } else { Err(CUT) }
}

/// Refuses a file with more scans than any encoder makes, before anything is decoded.
pub(crate) fn check_scans(bytes: &[u8]) -> Result<(), &'static str> {
    let mut reader = Reader { bytes, at: 2 };
    let mut scans = 0;
    // Whatever cannot be followed is for the decoder to judge.
    while let Ok(marker) = reader.marker() {
        match marker {
            EOI => break,
            RST0..=RST7 | SOI | 0x01 => {}
            _ => {
                scans += usize::from(marker == SOS);
                if scans > MAX_SCANS {
                    return Err("it has more than 1000 scans");
                }
                if reader.segment().is_err() {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// A place in the file.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// The next marker, wherever it is.
    fn marker(&mut self) -> Result<u8, &'static str> {
        loop {
            match self.bytes.get(self.at..) {
                Some([0xFF, code, ..]) if !matches!(code, 0x00 | 0xFF) => {
                    self.at += 2;
                    return Ok(*code);
                }
                Some([_, ..]) => self.at += 1,
                _ => return Err(CUT),
            }
        }
    }

    /// The contents of the segment after a marker.
    fn segment(&mut self) -> Result<&'a [u8], &'static str> {
        let Some([high, low, ..]) = self.bytes.get(self.at..) else { return Err(CUT) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let segment = self.bytes.get(self.at + 2..self.at + length.max(2)).ok_or(CUT)?;
        self.at += length.max(2);
        Ok(segment)
    }
}

/// A channel of the image.
struct Component {
    id: u8,
    /// Blocks of a minimum coded unit, horizontally and vertically.
    h: usize,
    v: usize,
    /// Blocks that hold pixels of the image.
    blocks: usize,
    /// For each block, a bit for each coefficient that a scan has made nonzero. Only progressive files need it: a later scan has one more bit for
    /// such a coefficient.
    nonzero: Vec<u64>,
    /// For each coefficient, how many lower bits are to come in later scans; [`UNSEEN`] before the first.
    missing_bits: [u8; 64],
}

const UNSEEN: u8 = u8::MAX;

struct Frame {
    components: Vec<Component>,
    /// Minimum coded units of a scan of several components.
    units: usize,
    progressive: bool,
}

impl Frame {
    fn new(segment: &[u8], progressive: bool, size: (u32, u32)) -> Result<Self, &'static str> {
        let [_precision, y1, y0, x1, x0, count, rest @ ..] = segment else { return Err(HEADER) };
        let height = usize::from(u16::from_be_bytes([*y1, *y0]));
        let width = usize::from(u16::from_be_bytes([*x1, *x0]));
        // Memory is taken by these figures below: only as much as the decoder has taken.
        if (width, height) != (size.0 as usize, size.1 as usize) || *count > MAX_COMPONENTS {
            return Err(HEADER);
        }
        let specs: Vec<&[u8]> = rest.chunks_exact(3).take((*count).into()).collect();
        let factors = |spec: &[u8]| (usize::from(spec[1] >> 4), usize::from(spec[1] & 15));
        let h_max = specs.iter().map(|spec| factors(spec).0).max().unwrap_or(0);
        let v_max = specs.iter().map(|spec| factors(spec).1).max().unwrap_or(0);
        if specs.len() != usize::from(*count)
            || specs.iter().any(|spec| factors(spec).0 * factors(spec).1 == 0)
        {
            return Err(HEADER);
        }
        let components = specs.iter().map(|spec| {
            let (h, v) = factors(spec);
            let blocks = (width * h).div_ceil(8 * h_max) * (height * v).div_ceil(8 * v_max);
            let nonzero = if progressive { vec![0; blocks] } else { Vec::new() };
            Component { id: spec[0], h, v, blocks, nonzero, missing_bits: [UNSEEN; 64] }
        });
        Ok(Self {
            components: components.collect(),
            units: width.div_ceil(8 * h_max.max(1)) * height.div_ceil(8 * v_max.max(1)),
            progressive,
        })
    }
}

/// A Huffman table: codes of one length follow each other.
struct Table {
    /// For each length from 1 to 16, the first 16 bits beyond its codes, and which symbol the code 0 of that length would be.
    limits: [u32; 16],
    offsets: [i32; 16],
    symbols: Vec<u8>,
}

/// The tables for DC and for AC coefficients that are valid now.
#[derive(Default)]
struct Tables {
    dc: [Option<Table>; 4],
    ac: [Option<Table>; 4],
    any: bool,
}

impl Tables {
    fn read(&mut self, mut segment: &[u8]) -> Result<(), &'static str> {
        while let [place, rest @ ..] = segment {
            let counts = rest.get(..16).ok_or(HEADER)?;
            let total = counts.iter().map(|&count| usize::from(count)).sum();
            let symbols = rest[16..].get(..total).ok_or(HEADER)?.to_vec();
            let mut table = Table { limits: [0; 16], offsets: [0; 16], symbols };
            let (mut code, mut symbol) = (0_u32, 0_i32);
            for (i, &count) in counts.iter().enumerate() {
                table.offsets[i] = symbol - code as i32;
                code += u32::from(count);
                symbol += i32::from(count);
                table.limits[i] = code << (15 - i);
                code <<= 1;
            }
            let tables = if place >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            *tables.get_mut(usize::from(place & 15)).ok_or(HEADER)? = Some(table);
            self.any = true;
            segment = &rest[16 + total..];
        }
        Ok(())
    }
}

/// The compressed data of some components, or of a part of their coefficients.
struct Scan {
    /// Components by place, with the numbers of their tables.
    parts: Vec<(usize, usize, usize)>,
    /// The first and the last coefficient.
    first: u32,
    last: u32,
    /// Whether an earlier scan has the upper bits of these coefficients, and how many lower ones a later scan has.
    refining: bool,
    missing_bits: u8,
}

impl Scan {
    fn new(segment: &[u8], frame: &Frame) -> Result<Self, &'static str> {
        let [count, rest @ ..] = segment else { return Err(HEADER) };
        let count = usize::from(*count);
        let (specs, rest) = rest.split_at_checked(2 * count).ok_or(HEADER)?;
        let [first, last, bits, ..] = rest else { return Err(HEADER) };
        let mut parts = Vec::new();
        for spec in specs.chunks_exact(2) {
            let place =
                frame.components.iter().position(|component| component.id == spec[0]).ok_or(HEADER)?;
            parts.push((place, usize::from(spec[1] >> 4), usize::from(spec[1] & 15)));
        }
        let (first, last) = if frame.progressive { (u32::from(*first), u32::from(*last)) } else { (0, 63) };
        // In a progressive file, a scan has DC coefficients, or AC coefficients of one component.
        let mixed = frame.progressive && if first == 0 { last != 0 } else { count != 1 || last < first };
        if parts.is_empty() || last > 63 || mixed {
            return Err(HEADER);
        }
        let (high, low) = if frame.progressive { (bits >> 4, bits & 15) } else { (0, 0) };
        Ok(Self { parts, first, last, refining: high != 0, missing_bits: low })
    }

    /// Reads through the scan, up to the marker after it.
    fn walk(
        &self,
        reader: &mut Reader<'_>,
        frame: &mut Frame,
        tables: &Tables,
        interval: usize,
    ) -> Result<(), &'static str> {
        let mut bits = Bits { reader, buffer: 0, count: 0 };
        let mut end_of_bands = 0;
        // A single component is stored block by block; several are interleaved, in units that may extend over the edge.
        let alone = self.parts.len() == 1;
        let units = if alone { frame.components[self.parts[0].0].blocks } else { frame.units };
        for unit in 0..units {
            if interval > 0 && unit > 0 && unit % interval == 0 {
                bits.restart((unit / interval - 1) % 8)?;
                end_of_bands = 0;
            }
            for &(place, dc, ac) in &self.parts {
                let component = &mut frame.components[place];
                let blocks = if alone { 1 } else { component.h * component.v };
                for _ in 0..blocks {
                    if !frame.progressive {
                        bits.sequential_block(table(&tables.dc, dc)?, table(&tables.ac, ac)?)?;
                    } else if self.first > 0 {
                        let nonzero = &mut component.nonzero[unit];
                        bits.ac_band(table(&tables.ac, ac)?, self, nonzero, &mut end_of_bands)?;
                    } else if self.refining {
                        bits.take(1)?;
                    } else {
                        bits.dc_difference(table(&tables.dc, dc)?)?;
                    }
                }
            }
        }
        for &(place, ..) in &self.parts {
            let coefficients = self.first as usize..=self.last as usize;
            frame.components[place].missing_bits[coefficients].fill(self.missing_bits);
        }
        bits.end()
    }
}

fn table(tables: &[Option<Table>; 4], place: usize) -> Result<&Table, &'static str> {
    tables.get(place).and_then(Option::as_ref).ok_or(HEADER)
}

/// The bits of a scan.
struct Bits<'r, 'a> {
    reader: &'r mut Reader<'a>,
    /// What comes next, from the top bit down.
    buffer: u64,
    count: u32,
}

impl Bits<'_, '_> {
    /// Takes bytes in, up to a marker or the end.
    fn fill(&mut self) {
        while self.count <= 56 {
            let byte = match self.reader.bytes.get(self.reader.at..) {
                Some([0xFF, 0x00, ..]) => {
                    self.reader.at += 1;
                    0xFF
                }
                Some([byte, ..]) if *byte != 0xFF => *byte,
                _ => return,
            };
            self.reader.at += 1;
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// The next bits, at most 16.
    fn take(&mut self, count: u32) -> Result<u32, &'static str> {
        if count > self.count {
            self.fill();
        }
        if count > self.count {
            return Err(if self.reader.at + 1 >= self.reader.bytes.len() { CUT } else { DAMAGED });
        }
        // In two steps: a shift by all 64 bits is none.
        let bits = (self.buffer >> 1 >> (63 - count)) as u32;
        self.buffer <<= count;
        self.count -= count;
        Ok(bits)
    }

    fn symbol(&mut self, table: &Table) -> Result<u8, &'static str> {
        if self.count < 16 {
            self.fill();
        }
        let next = (self.buffer >> 48) as u32;
        let length = table.limits.iter().position(|&limit| next < limit);
        // No code: beyond the end of the data, where zeros follow, or within it.
        let Some(i) = length else { return Err(if self.count < 16 { CUT } else { DAMAGED }) };
        let code = self.take(i as u32 + 1)?;
        let symbol = usize::try_from(code as i32 + table.offsets[i]).ok();
        symbol.and_then(|symbol| table.symbols.get(symbol).copied()).ok_or(DAMAGED)
    }

    fn dc_difference(&mut self, table: &Table) -> Result<(), &'static str> {
        let size = self.symbol(table)?;
        if size > 16 {
            return Err(DAMAGED);
        }
        self.take(size.into()).map(|_| ())
    }

    fn sequential_block(&mut self, dc: &Table, ac: &Table) -> Result<(), &'static str> {
        self.dc_difference(dc)?;
        let mut k = 1;
        while k < 64 {
            let symbol = self.symbol(ac)?;
            let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
            match (run, size) {
                (15, 0) => k += 16,
                (_, 0) => break,
                _ => {
                    k += run + 1;
                    if k > 64 {
                        return Err(DAMAGED);
                    }
                    self.take(size)?;
                }
            }
        }
        Ok(())
    }

    /// A block of a scan of AC coefficients. `end_of_bands` counts the blocks from here on that have no more new ones.
    fn ac_band(
        &mut self,
        table: &Table,
        scan: &Scan,
        nonzero: &mut u64,
        end_of_bands: &mut u32,
    ) -> Result<(), &'static str> {
        let mut k = scan.first;
        while *end_of_bands == 0 && k <= scan.last {
            let symbol = self.symbol(table)?;
            let (mut run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
            if size == 0 && run < 15 {
                *end_of_bands = (1 << run) + self.take(run)?;
                break;
            }
            if scan.refining {
                // The sign of a new coefficient; it comes after `run` zero ones, and the nonzero ones in between have a bit each.
                if size > 1 {
                    return Err(DAMAGED);
                }
                self.take(size)?;
                while k <= scan.last {
                    if *nonzero >> k & 1 != 0 {
                        self.take(1)?;
                    } else if run == 0 {
                        break;
                    } else {
                        run -= 1;
                    }
                    k += 1;
                }
            } else {
                k += run;
                self.take(size)?;
            }
            if size > 0 {
                if k > scan.last {
                    return Err(DAMAGED);
                }
                *nonzero |= 1 << k;
            }
            k += 1;
        }
        if *end_of_bands > 0 {
            *end_of_bands -= 1;
            if scan.refining {
                for k in k..=scan.last {
                    self.take((*nonzero >> k & 1) as u32)?;
                }
            }
        }
        Ok(())
    }

    /// Ends a part of the scan: only padding may precede the next marker.
    fn end(&mut self) -> Result<(), &'static str> {
        self.take(self.count % 8)?;
        loop {
            self.fill();
            if self.count == 0 {
                return Ok(());
            }
            if !matches!(self.take(8)?, 0x00 | 0xFF) {
                return Err(DAMAGED);
            }
        }
    }

    /// Ends a part of the scan with the restart marker of this number.
    fn restart(&mut self, number: usize) -> Result<(), &'static str> {
        self.end()?;
        let marker = self.reader.marker()?;
        if usize::from(marker) == usize::from(RST0) + number { Ok(()) } else { Err(DAMAGED) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image_folder::{LARGEST_SIDE, decode};
    use crate::testing::noise;
    use image::codecs::jpeg::JpegEncoder;
    use image::{ExtendedColorType, GrayImage, RgbImage};

    /// `Image.effect_noise((48, 40), 60)` and a gradient as red and green, blurred, saved by Pillow 13.0 with quality 60,
    /// `progressive=True`, and a restart marker after each row.
    const PROGRESSIVE: &[u8] = include_bytes!("testing/progressive.jpg");
    /// The same as CMYK, not progressive, with a restart marker after every two blocks.
    const CMYK: &[u8] = include_bytes!("testing/cmyk.jpg");

    /// Files of several kinds, all whole.
    fn whole() -> Vec<(String, Vec<u8>)> {
        let mut files =
            vec![("progressive".to_owned(), PROGRESSIVE.to_vec()), ("cmyk".to_owned(), CMYK.to_vec())];
        for (width, height) in [(1, 1), (8, 8), (17, 40), (64, 33)] {
            let rgb = RgbImage::from_raw(width, height, noise(1, (width * height * 3) as usize)).unwrap();
            let gray = GrayImage::from_raw(width, height, noise(2, (width * height) as usize)).unwrap();
            for (pixels, color) in
                [(rgb.as_raw(), ExtendedColorType::Rgb8), (gray.as_raw(), ExtendedColorType::L8)]
            {
                let mut bytes = Vec::new();
                JpegEncoder::new_with_quality(&mut bytes, 90).encode(pixels, width, height, color).unwrap();
                files.push((format!("{width}x{height} {color:?}"), bytes));
            }
        }
        files
    }

    /// With the size that the image is known to have.
    fn check(bytes: &[u8]) -> Result<(), &'static str> {
        let frame = bytes.windows(2).position(|pair| matches!(pair, [0xFF, SOF_BASELINE..=SOF_PROGRESSIVE]));
        let size = frame.and_then(|at| bytes.get(at + 5..at + 9)).unwrap_or_default();
        let side = |place: usize| {
            size.get(place..place + 2).map_or(0, |side| u32::from(side[0]) << 8 | u32::from(side[1]))
        };
        super::check(bytes, (side(2), side(0)))
    }

    #[test]
    fn no_memory_is_taken_for_a_size_that_the_decoder_has_not_found() {
        let at = PROGRESSIVE.windows(2).position(|pair| pair == [0xFF, SOF_PROGRESSIVE]).unwrap();
        let mut huge = PROGRESSIVE.to_vec();
        huge[at + 5..at + 9].fill(0xFF);
        assert_eq!(super::check(&huge, (48, 40)), Err(HEADER));
        assert_eq!(super::check(PROGRESSIVE, (48, 40)), Ok(()));
    }

    /// A few bytes a scan, each of which costs time for the whole image.
    #[test]
    fn more_scans_than_any_encoder_makes_are_refused_before_decoding() {
        let scan = [0xFF, SOS, 0, 8, 1, 1, 0, 1, 63, 0, 0x55];
        let (head, end) = PROGRESSIVE.split_at(PROGRESSIVE.len() - 2);
        let with = |scans: usize| [head, &scan.repeat(scans), end].concat();
        assert_eq!(check_scans(&with(900)), Ok(()));
        assert_eq!(check_scans(&with(1000)), Err("it has more than 1000 scans"));
        let error = decode(&with(1000), LARGEST_SIDE).unwrap_err();
        assert_eq!(error, "it has more than 1000 scans; replace or remove it");
    }

    /// Where the compressed data of the first scan begins.
    fn data_start(bytes: &[u8]) -> usize {
        let header = bytes.windows(2).position(|pair| pair == [0xFF, SOS]).unwrap();
        header + 2 + usize::from(bytes[header + 3])
    }

    #[test]
    fn whole_files_are_whole_whatever_follows_them() {
        for (name, bytes) in whole() {
            assert_eq!(check(&bytes), Ok(()), "{name}");
            let followed = [&bytes, b"\0\0\xFF\xD8 and more".as_slice()].concat();
            assert_eq!(check(&followed), Ok(()), "{name}");
            // Padding before a marker.
            let (data, end) = bytes.split_at(bytes.len() - 2);
            assert_eq!(check(&[data, &[0, 0, 0xFF, 0xFF], end].concat()), Ok(()), "{name}");
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_cut() {
        for (name, bytes) in whole() {
            for n in 2..bytes.len() {
                assert!(check(&bytes[..n]).is_err(), "{name}: {n} of {} bytes", bytes.len());
            }
        }
    }

    #[test]
    fn an_end_marker_behind_a_cut_does_not_hide_it() {
        for (name, bytes) in whole() {
            for n in data_start(&bytes)..bytes.len() - 4 {
                let rest = bytes.len() - n;
                let ended = [&bytes[..n], &[0xFF, EOI]].concat();
                assert!(check(&ended).is_err(), "{name}: {rest} bytes cut");
                let zeroed = [&bytes[..n], vec![0; rest].as_slice()].concat();
                assert!(check(&zeroed).is_err(), "{name}: {rest} bytes zeroed");
            }
        }
    }

    #[test]
    fn overwritten_data_is_damaged() {
        for (name, bytes) in whole() {
            let start = data_start(&bytes);
            // The scans of the progressive file are too short for this.
            if bytes.len() - start < 200 || name == "progressive" {
                continue;
            }
            // Too many blocks, and too few.
            let middle = (start + bytes.len()) / 2;
            let doubled = [&bytes[..middle], &bytes[start..]].concat();
            assert_eq!(check(&doubled), Err(DAMAGED), "{name}");
            let removed = [&bytes[..start + 20], &bytes[middle..]].concat();
            assert_eq!(check(&removed), Err(DAMAGED), "{name}");
        }
    }
}
