//! Pickles, read by candle's own machine, which executes nothing: what a pickle would call stays a name with arguments.
//!
//! candle trusts the file. A hostile one could make it do the following, which is prevented here before candle gets the instruction:
//! reserve as many bytes as a string claims to have; shift by more bits than an integer has; copy memoised objects until memory is
//! exhausted (a few bytes double an object each time); nest objects deeper than the stack of the thread that later drops them.

use candle_core::pickle::{Object, OpCode, Stack};
use pointwise_data::without_panic;
use std::collections::HashMap;

/// How deep objects may lie in each other. A checkpoint of PyTorch needs about ten levels.
const MAX_DEPTH: u32 = 200;

/// How many objects a pickle may make, copies included. The largest checkpoints of torchvision, with an optimizer's state, make fewer
/// than a tenth. Fewer while fuzzing, where inputs that reach the limit would take all of the time.
const MAX_OBJECTS: u64 = if cfg!(fuzzing) { 1 << 14 } else { 1 << 22 };

/// Bytes of text that count as one more object.
const TEXT: u64 = 64;

/// The size of an object.
#[derive(Debug, Clone, Copy)]
struct Extent {
    objects: u64,
    depth: u32,
    /// Its key in the memo: what is put into it later has to be memoised, too, because candle memoises a copy.
    memo: Option<u32>,
}

impl Extent {
    const ONE: Self = Self { objects: 1, depth: 1, memo: None };
}

/// candle's machine, with limits.
struct Machine {
    stack: Stack,
    /// Of each object on the stack.
    extents: Vec<Extent>,
    /// Of each memoised object.
    memo: HashMap<u32, Extent>,
    made: u64,
}

/// The first object of `bytes`, which are advanced past it.
///
/// # Errors
/// A sentence that says what is wrong.
pub(super) fn read(bytes: &mut &[u8]) -> Result<Object, String> {
    let mut machine = Machine { stack: Stack::empty(), extents: Vec::new(), memo: HashMap::new(), made: 0 };
    while !machine.step(bytes)? {}
    machine.stack.finalize().map_err(|_| unreadable("it ends without an object"))
}

fn unreadable(reason: &str) -> String {
    format!(
        "its pickle cannot be read ({reason}): fetch the file again, or save the state_dict() alone with torch.save"
    )
}

impl Machine {
    /// Takes one instruction; `true` for the last.
    fn step(&mut self, bytes: &mut &[u8]) -> Result<bool, String> {
        let op = self.check(bytes)?;
        let before = self.stack.stack().len();
        // Before candle copies it.
        let copied = match (&op, id_of(&op, bytes)) {
            (OpCode::BinPut | OpCode::LongBinPut, Some(id)) => {
                let top = self.extents.last_mut().ok_or_else(|| unreadable("it remembers nothing"))?;
                top.memo = Some(id);
                Some((id, *top))
            }
            (OpCode::BinGet | OpCode::LongBinGet, Some(id)) => self.memo.get(&id).map(|extent| (id, *extent)),
            _ => None,
        };
        self.count(copied.map_or(0, |(_, extent)| extent.objects))?;
        let is_last = self.read(bytes)?;
        let after = self.stack.stack().len();
        match copied {
            Some((_, extent)) if after > before => self.extents.push(extent),
            Some((id, extent)) => {
                self.memo.insert(id, extent);
            }
            None if after > before => {
                let text = match self.stack.stack().last() {
                    Some(Object::Unicode(text)) => text.len() as u64,
                    Some(Object::Class { module_name, class_name }) => {
                        (module_name.len() + class_name.len()) as u64
                    }
                    _ => 0,
                };
                let extent = Extent { objects: 1 + text / TEXT, ..Extent::ONE };
                self.extents.push(extent);
                self.count(extent.objects)?;
            }
            // The topmost object has absorbed what was above it, or all of that is in a new object.
            None => self.merge(&op, after)?,
        }
        Ok(is_last)
    }

    /// Refuses an instruction that candle must not get.
    fn check(&self, bytes: &[u8]) -> Result<OpCode, String> {
        let cut = || unreadable("it is cut short");
        let code = *bytes.first().ok_or_else(cut)?;
        // candle mistakes the instruction `d`, which makes a dictionary of what is on the stack, for the one that makes an empty one.
        let known = if code == b'd' { Err(code) } else { OpCode::try_from(code) };
        let op = known.map_err(|code| {
            format!(
                "its pickle has the instruction {code:#04x}, which torch.save does not write by default: load it in Python and save it \
                 again with torch.save"
            )
        })?;
        match op {
            OpCode::BinUnicode => {
                let len = bytes.get(1..5).and_then(|len| len.first_chunk()).ok_or_else(cut)?;
                if u32::from_le_bytes(*len) as usize > bytes.len() - 5 {
                    return Err(cut());
                }
            }
            OpCode::Long1 if *bytes.get(1).ok_or_else(cut)? > 8 => {
                return Err(unreadable("it has an integer of more than 64 bits"));
            }
            OpCode::Reduce => {
                if let [.., Object::Class { module_name, class_name }, Object::Tuple(arguments)] =
                    self.stack.stack()
                    && module_name == "collections"
                    && class_name == "OrderedDict"
                    && !arguments.is_empty()
                {
                    // candle would read it as an empty one.
                    return Err(
                        "it was written by Python 2: load it in Python and save it again with torch.save"
                            .to_owned(),
                    );
                }
            }
            _ => {}
        }
        Ok(op)
    }

    /// Updates the extent of the topmost of `after` objects, which was made of everything there and above.
    fn merge(&mut self, op: &OpCode, after: usize) -> Result<(), String> {
        let parts = self.extents.split_off(after.saturating_sub(1).min(self.extents.len()));
        // The stack is empty, at the beginning.
        let [first, rest @ ..] = &parts[..] else { return Ok(()) };
        let objects = parts.iter().map(|part| part.objects).sum::<u64>();
        let deepest = |parts: &[Extent]| parts.iter().map(|part| part.depth).max().unwrap_or(0);
        let (depth, changed) = match op {
            OpCode::Append | OpCode::Appends | OpCode::SetItem | OpCode::SetItems => {
                (first.depth.max(1 + deepest(rest)), first.memo)
            }
            // For Python the same object, for candle another one around it.
            OpCode::Build => (1 + deepest(&parts), first.memo),
            OpCode::Proto | OpCode::Stop => {
                self.extents.push(*first);
                return Ok(());
            }
            _ => (1 + deepest(&parts), None),
        };
        if depth > MAX_DEPTH {
            return Err(format!(
                "its pickle nests objects more than {MAX_DEPTH} deep, which no state_dict does"
            ));
        }
        let extent = Extent { objects: objects + 1, depth, memo: changed };
        self.extents.push(extent);
        self.count(1)?;
        if let Some(id) = changed {
            self.count(extent.objects)?;
            let mut put = vec![OpCode::LongBinPut as u8];
            put.extend(id.to_le_bytes());
            self.read(&mut &put[..])?;
            self.memo.insert(id, extent);
        }
        Ok(())
    }

    /// Lets candle's reader do the next step, and returns whether it was the last.
    fn read(&mut self, bytes: &mut &[u8]) -> Result<bool, String> {
        let read = without_panic(|| self.stack.read(bytes));
        read.ok_or_else(|| unreadable("its reader fails on it"))?
            .map_err(|error| unreadable(&short(&error.to_string())))
    }

    fn count(&mut self, objects: u64) -> Result<(), String> {
        self.made = self.made.saturating_add(objects);
        if self.made > MAX_OBJECTS {
            return Err(format!(
                "its pickle makes more than {MAX_OBJECTS} objects, more than any state_dict has: save the state_dict alone"
            ));
        }
        Ok(())
    }
}

/// The memo key that an instruction writes or reads.
fn id_of(op: &OpCode, bytes: &[u8]) -> Option<u32> {
    match op {
        OpCode::BinPut | OpCode::BinGet => bytes.get(1).map(|id| u32::from(*id)),
        OpCode::LongBinPut | OpCode::LongBinGet => {
            bytes.get(1..5).and_then(|id| id.first_chunk()).map(|id| u32::from_le_bytes(*id))
        }
        _ => None,
    }
}

/// The beginning of a message of candle's, which may hold a whole object.
fn short(message: &str) -> String {
    const SHOWN: usize = 80;
    let line = message.lines().next().unwrap_or_default();
    let mut shown: String = line.chars().take(SHOWN).collect();
    if shown.len() < line.len() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(bytes: &[u8]) -> String {
        let error = read(&mut &bytes[..]).expect_err("must be refused");
        assert!(!error.contains('\n') && error.len() < 400, "{error}");
        error
    }

    #[test]
    fn hostile_pickles_are_refused_before_they_take_memory_or_the_stack() {
        // Each object has the one before twice.
        let mut doubling = b"\x80\x02N".to_vec();
        for id in 0..60u8 {
            doubling.extend([b'q', id, b'h', id, 0x86]);
        }
        assert!(refused(&doubling).contains("more than 4194304 objects"));
        let growing = [&b"\x80\x02]"[..], &b"q\x00h\x00a".repeat(40), b"."].concat();
        assert!(refused(&growing).contains("objects"));
        for nested in [&b"\x85"[..], b"Q", b"]q\x00a", b"NR", b"Nb", b"Nt", b"N\x86", b"N\x81"] {
            let marks = if nested == b"Nt" { b"(".repeat(1 << 20) } else { Vec::new() };
            let bytes = [b"\x80\x02", &marks[..], b"N", &nested.repeat(1 << 20), b"."].concat();
            let error = refused(&bytes);
            assert!(error.contains("more than 200 deep") || error.contains("expected a list"), "{error}");
        }
        assert!(refused(b"\x80\x02X\xff\xff\xff\xffabc").contains("cut short"));
        assert!(refused(b"\x80\x02\x8a\xff").contains("more than 64 bits"));
        assert!(refused(b"\x80\x02h\x05.").contains("memo 5"));
        assert!(refused(b"\x80\x02q\x05.").contains("it remembers nothing"));
        for bytes in
            [&b"\x80\x02."[..], b"\x80\x02s.", b"\x80\x02t.", b"\x80\x02R.", b"\x80\x02KQ", b"", b"."]
        {
            refused(bytes);
        }
        assert!(refused(b"\x80\x02(N(Nd.").contains("the instruction 0x64"));
    }

    #[test]
    fn what_is_put_into_a_dictionary_is_there_when_it_is_recalled() {
        let key = |name: &[u8]| [&b"X\x01\x00\x00\x00"[..], name].concat();
        // {"a": d, "b": d} of d = {"c": [1, 2]}, whose list grows in two steps.
        let inner = [&b"}q\x01"[..], &key(b"c"), b"]q\x02K\x01aK\x02as"].concat();
        let bytes = [b"\x80\x02}(", &key(b"a")[..], &inner, &key(b"b"), b"h\x01u."].concat();
        let Object::Dict(entries) = read(&mut &bytes[..]).unwrap() else { panic!() };
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].1, entries[1].1);
        let list = Object::List(vec![Object::Int(1), Object::Int(2)]);
        assert_eq!(entries[0].1, Object::Dict(vec![(Object::Unicode("c".to_owned()), list)]));
    }

    #[test]
    fn an_ordered_dictionary_of_python_2_is_not_read_as_an_empty_one() {
        let error = refused(b"\x80\x02ccollections\nOrderedDict\n](]X\x01\x00\x00\x00aaK\x01ae\x85R.");
        assert!(error.contains("written by Python 2"), "{error}");
    }
}
