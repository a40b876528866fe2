//! Python's [pickle](https://docs.python.org/3/library/pickletools.html) format, protocol 2, as far as `torch.save` uses it for a
//! `state_dict`. Numbers are written in the form that Python's own writer chooses.

/// A program for Python's unpickler, which has a stack.
#[derive(Debug)]
pub(super) struct Pickle {
    bytes: Vec<u8>,
}

impl Pickle {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0x80, 2] }
    }

    /// Pushes what a module has under a name.
    pub(super) fn global(&mut self, module: &str, name: &str) {
        self.bytes.push(b'c');
        for line in [module, name] {
            self.bytes.extend(line.as_bytes());
            self.bytes.push(b'\n');
        }
    }

    /// Pushes a string, which must be shorter than 4 GiB: the names in a model are.
    pub(super) fn text(&mut self, text: &str) {
        self.bytes.push(b'X');
        self.bytes.extend((text.len() as u32).to_le_bytes());
        self.bytes.extend(text.as_bytes());
    }

    /// Pushes a whole number.
    pub(super) fn int(&mut self, value: usize) {
        match value {
            0..=0xff => self.bytes.extend([b'K', value as u8]),
            0x100..=0xffff => {
                self.bytes.push(b'M');
                self.bytes.extend((value as u16).to_le_bytes());
            }
            0x1_0000..=0x7fff_ffff => {
                self.bytes.push(b'J');
                self.bytes.extend((value as u32).to_le_bytes());
            }
            _ => {
                // Little-endian in as many bytes as it takes, the topmost bit being the sign.
                let bytes = (value as u128).to_le_bytes();
                let bits = usize::BITS - value.leading_zeros();
                let len = bits as usize / 8 + 1;
                self.bytes.extend([0x8a, len as u8]);
                self.bytes.extend(&bytes[..len]);
            }
        }
    }

    pub(super) fn no(&mut self) {
        self.bytes.push(0x89);
    }

    /// Pushes a tuple of what `items` pushes.
    pub(super) fn tuple(&mut self, items: impl FnOnce(&mut Self)) {
        self.bytes.push(b'(');
        items(self);
        self.bytes.push(b't');
    }

    /// Replaces a callable and a tuple by what it returns.
    pub(super) fn call(&mut self) {
        self.bytes.push(b'R');
    }

    /// Replaces a persistent id, which is a tuple, by what the reader finds under it.
    pub(super) fn persistent(&mut self) {
        self.bytes.push(b'Q');
    }

    /// Puts keys and values, which `items` pushes in turn, into the dictionary on the stack.
    pub(super) fn set_items(&mut self, items: impl FnOnce(&mut Self)) {
        self.bytes.push(b'(');
        items(self);
        self.bytes.push(b'u');
    }

    /// The whole program: what is left on the stack is its result.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.push(b'.');
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `pickle.dumps(value, protocol=2)` of Python 3.11.
    #[test]
    fn numbers_are_those_of_python() {
        let cases: [(usize, &[u8]); 7] = [
            (0, b"K\x00"),
            (255, b"K\xff"),
            (256, b"M\x00\x01"),
            (65536, b"J\x00\x00\x01\x00"),
            (0x7fff_ffff, b"J\xff\xff\xff\x7f"),
            (0x8000_0000, b"\x8a\x05\x00\x00\x00\x80\x00"),
            (1 << 39, b"\x8a\x06\x00\x00\x00\x00\x80\x00"),
        ];
        for (value, expected) in cases {
            let mut pickle = Pickle::new();
            pickle.int(value);
            assert_eq!(pickle.finish(), [b"\x80\x02", expected, b"."].concat(), "{value}");
        }
    }
}
