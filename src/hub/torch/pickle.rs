//! An interpreter for the pickles of `torch.save` that calls no functions.
//!
//! A pickle is a program for a stack machine, and the one in Python calls whatever function the pickle names. This
//! interpreter supports the instructions that a dictionary of tensors needs, builds plain data, and rejects every name
//! that is not in [`known`](super::known). The instructions are documented in `pickletools.py` of Python 3.14.

use std::collections::HashMap;

use safetensors::Dtype;

use super::known::{Name, known};
use crate::bail;
use crate::error::Result;

const REMEDY: &str =
    "the file is truncated, damaged or not a state dict; save it again with torch.save(model.state_dict(), path)";

/// Largest size of a pickle in bytes. A checkpoint of 10,000 tensors has a pickle of about two million bytes.
const MAX_BYTES: usize = 4 << 20;
/// Largest number of axes of a tensor.
const MAX_AXES: usize = 8;

/// A value on the stack. Containers are indices into the [`Heap`], since they may be shared and may contain themselves.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Text(&'a str),
    Tuple(usize),
    List(usize),
    Dict(usize),
    Name(Name),
    Storage(usize),
    Tensor(usize),
    /// Any value that is not needed: floats, long integers, bytes, sets, and results of [`Name::Data`].
    Other,
}

/// A block of elements in the file, of which tensors are views.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Storage<'a> {
    pub key: &'a str,
    pub dtype: Dtype,
    /// Number of elements.
    pub count: usize,
}

/// A tensor as a view of a storage. Offset and strides are in elements.
#[derive(Clone, Debug)]
pub struct View {
    pub storage: usize,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// The objects built by pickles.
#[derive(Default)]
pub struct Heap<'a> {
    tuples: Vec<Vec<Value<'a>>>,
    lists: Vec<Vec<Value<'a>>>,
    dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    pub storages: Vec<Storage<'a>>,
    pub views: Vec<View>,
    by_key: HashMap<&'a str, usize>,
}

impl<'a> Heap<'a> {
    /// Returns the entries of a dictionary in insertion order, or `None` for other values.
    pub fn dict(&self, value: Value<'a>) -> Option<&[(Value<'a>, Value<'a>)]> {
        match value {
            Value::Dict(i) => Some(&self.dicts[i]),
            _ => None,
        }
    }

    /// Returns the items of a list, or `None` for other values.
    pub fn list(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match value {
            Value::List(i) => Some(&self.lists[i]),
            _ => None,
        }
    }

    /// Returns the index of the storage with this key.
    pub fn storage(&self, key: &str) -> Option<usize> {
        self.by_key.get(key).copied()
    }

    /// Returns the items of a tuple, or `None` for other values.
    fn tuple(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match value {
            Value::Tuple(i) => Some(&self.tuples[i]),
            _ => None,
        }
    }
}

/// Interprets the pickle at the start of `bytes`. Returns the value that it builds and its length in bytes.
///
/// # Errors
/// The pickle has an unknown instruction or a name that is not on the list, or it is truncated or inconsistent.
pub fn run<'a>(bytes: &'a [u8], heap: &mut Heap<'a>) -> Result<(Value<'a>, usize)> {
    let mut machine = Machine {
        input: &bytes[..bytes.len().min(MAX_BYTES)],
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        heap,
    };
    while !machine.step()? {}
    match machine.stack.as_slice() {
        &[value] => Ok((value, machine.at)),
        items => bail!("the pickle leaves {} items on the stack instead of one; {REMEDY}", items.len()),
    }
}

/// The state of the interpreter.
struct Machine<'a, 'h> {
    input: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    heap: &'h mut Heap<'a>,
}

impl<'a> Machine<'a, '_> {
    /// Interprets one instruction. Returns true after the last one.
    fn step(&mut self) -> Result<bool> {
        let [code] = self.fixed::<1>()?;
        match code {
            // PROTO, FRAME.
            0x80 => {
                self.fixed::<1>()?;
            }
            0x95 => {
                self.fixed::<8>()?;
            }
            b'.' => return Ok(true),
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            // BININT, BININT1, BININT2, LONG1, BINFLOAT.
            b'J' => {
                let value = i32::from_le_bytes(self.fixed()?);
                self.stack.push(Value::Int(value.into()));
            }
            b'K' => {
                let [value] = self.fixed()?;
                self.stack.push(Value::Int(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.fixed()?);
                self.stack.push(Value::Int(value.into()));
            }
            0x8a => {
                let [length] = self.fixed()?;
                let value = long(self.bytes(length.into())?);
                self.stack.push(value);
            }
            b'G' => {
                self.fixed::<8>()?;
                self.stack.push(Value::Other);
            }
            // Text: BINUNICODE, SHORT_BINUNICODE, BINUNICODE8, and SHORT_BINSTRING, BINSTRING of Python 2.
            b'X' | b'T' => {
                let length = u32::from_le_bytes(self.fixed()?);
                self.text(length.into(), code == b'T')?;
            }
            0x8c | b'U' => {
                let [length] = self.fixed()?;
                self.text(length.into(), code == b'U')?;
            }
            0x8d => {
                let length = u64::from_le_bytes(self.fixed()?);
                self.text(length, false)?;
            }
            // LONG4.
            0x8b => {
                let length = u32::from_le_bytes(self.fixed()?);
                self.bytes(length.into())?;
                self.stack.push(Value::Other);
            }
            // BINBYTES, SHORT_BINBYTES, BINBYTES8 and BYTEARRAY8.
            0x8e | 0x96 => {
                let length = u64::from_le_bytes(self.fixed()?);
                self.bytes(length)?;
                self.stack.push(Value::Other);
            }
            b'B' => {
                let length = u32::from_le_bytes(self.fixed()?);
                self.bytes(length.into())?;
                self.stack.push(Value::Other);
            }
            b'C' => {
                let [length] = self.fixed()?;
                self.bytes(length.into())?;
                self.stack.push(Value::Other);
            }
            b'}' | b']' | b')' | b't' | 0x85..=0x87 | b'a' | b'e' | b's' | b'u' => self.container(code)?,
            // EMPTY_SET, ADDITEMS, FROZENSET.
            0x8f => self.stack.push(Value::Other),
            0x90 | 0x91 => {
                let from = self.mark()?;
                self.stack.truncate(from);
                match (code, self.stack.last()) {
                    (0x91, _) => self.stack.push(Value::Other),
                    (_, Some(Value::Other)) => {}
                    _ => bail!("the pickle adds items to something that is not a set; {REMEDY}"),
                }
            }
            b'q' | b'r' | b'h' | b'j' | 0x94 => self.remember(code)?,
            // GLOBAL, STACK_GLOBAL.
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.stack.push(Value::Name(known(module, name)?));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(module), Value::Text(name)) = (module, name) else {
                    bail!("a name in the pickle is not a string; {REMEDY}");
                };
                self.stack.push(Value::Name(known(module, name)?));
            }
            // REDUCE, NEWOBJ, BUILD, BINPERSID.
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                let value = self.call(function, arguments)?;
                self.stack.push(value);
            }
            0x81 => match (self.pop()?, self.pop()?) {
                (Value::Tuple(_), Value::Name(Name::Data)) => self.stack.push(Value::Other),
                (_, class) => bail!("the pickle creates an object of {class:?}; {REMEDY}"),
            },
            b'b' => {
                self.pop()?;
                // The attributes are not needed: those of an OrderedDict are the versions of modules.
                let Some(Value::Dict(_) | Value::Other) = self.stack.last() else {
                    bail!("the pickle sets attributes on something that has none; {REMEDY}");
                };
            }
            b'Q' => {
                let id = self.pop()?;
                let value = self.storage(id)?;
                self.stack.push(value);
            }
            code => bail!("byte {} is the instruction {code:#04x}, which is not supported; {REMEDY}", self.at - 1),
        }
        Ok(false)
    }

    /// Interprets an instruction that builds a container or adds items to one.
    fn container(&mut self, code: u8) -> Result<()> {
        match code {
            b'}' => {
                self.heap.dicts.push(Vec::new());
                self.stack.push(Value::Dict(self.heap.dicts.len() - 1));
            }
            b']' => {
                self.heap.lists.push(Vec::new());
                self.stack.push(Value::List(self.heap.lists.len() - 1));
            }
            // EMPTY_TUPLE, TUPLE1 to TUPLE3, TUPLE.
            b')' => self.tuple(self.stack.len()),
            0x85..=0x87 => match self.stack.len().checked_sub(usize::from(code - 0x84)) {
                Some(from) if self.marks.last().is_none_or(|&mark| mark <= from) => self.tuple(from),
                _ => bail!("the pickle builds a tuple of more items than there are; {REMEDY}"),
            },
            b't' => {
                let from = self.mark()?;
                self.tuple(from);
            }
            // APPEND, APPENDS.
            b'a' | b'e' => {
                let from = if code == b'e' { self.mark()? } else { self.below(1)? };
                let items = self.stack.split_off(from);
                match self.stack.last() {
                    Some(&Value::List(i)) => self.heap.lists[i].extend(items),
                    Some(Value::Other) => {}
                    _ => bail!("the pickle appends to something that is not a list; {REMEDY}"),
                }
            }
            // SETITEM, SETITEMS.
            _ => {
                let from = if code == b'u' { self.mark()? } else { self.below(2)? };
                let items = self.stack.split_off(from);
                match self.stack.last() {
                    Some(&Value::Dict(i)) if items.len().is_multiple_of(2) => {
                        self.heap.dicts[i].extend(items.as_chunks::<2>().0.iter().map(|&[key, value]| (key, value)));
                    }
                    Some(Value::Other) => {}
                    _ => bail!("the pickle sets items of something that is not a dictionary; {REMEDY}"),
                }
            }
        }
        Ok(())
    }

    /// Interprets a memo instruction: BINPUT, LONG_BINPUT, BINGET, LONG_BINGET, MEMOIZE.
    fn remember(&mut self, code: u8) -> Result<()> {
        let id = match code {
            b'q' | b'h' => self.fixed::<1>()?[0].into(),
            b'r' | b'j' => u32::from_le_bytes(self.fixed()?),
            // Fits into u32: a pickle has at most MAX_BYTES bytes.
            _ => self.memo.len() as u32,
        };
        if matches!(code, b'h' | b'j') {
            match self.memo.get(&id) {
                Some(&value) => self.stack.push(value),
                None => bail!("the pickle reads item {id} of its memo, which is not set; {REMEDY}"),
            }
        } else {
            let Some(&value) = self.stack.last() else {
                bail!("the pickle stores an item of an empty stack in its memo; {REMEDY}");
            };
            self.memo.insert(id, value);
        }
        Ok(())
    }

    /// Interprets REDUCE: builds the result of the functions that are on the list.
    fn call(&mut self, function: Value<'a>, arguments: Value<'a>) -> Result<Value<'a>> {
        let (Value::Name(function), Some(arguments)) = (function, self.heap.tuple(arguments)) else {
            bail!("the pickle calls something that is not a function; {REMEDY}");
        };
        match (function, arguments) {
            (Name::OrderedDict, []) | (Name::OtherDict, _) => {
                self.heap.dicts.push(Vec::new());
                Ok(Value::Dict(self.heap.dicts.len() - 1))
            }
            (Name::Data, _) => Ok(Value::Other),
            // The other arguments are requires_grad, hooks and metadata.
            (Name::RebuildTensor, &[Value::Storage(storage), Value::Int(offset), shape, strides, ..]) => {
                let sizes = |value| {
                    let items = self.heap.tuple(value).filter(|items| items.len() <= MAX_AXES)?;
                    items.iter().map(|&item| size(item)).collect::<Option<Vec<usize>>>()
                };
                let (Some(shape), Some(strides), Ok(offset)) = (sizes(shape), sizes(strides), usize::try_from(offset))
                else {
                    bail!("a tensor's offset, shape or strides are out of range; {REMEDY}");
                };
                if shape.len() != strides.len() {
                    bail!("a tensor has {} axes but {} strides; {REMEDY}", shape.len(), strides.len());
                }
                self.heap.views.push(View { storage, offset, shape, strides });
                Ok(Value::Tensor(self.heap.views.len() - 1))
            }
            (Name::RebuildParameter, &[tensor @ Value::Tensor(_), ..]) => Ok(tensor),
            (function, _) => bail!("the pickle calls {function:?} with unexpected arguments; {REMEDY}"),
        }
    }

    /// Interprets BINPERSID: `("storage", type, key, device, elements)`, which older files follow with view metadata
    /// that must be None.
    fn storage(&mut self, id: Value<'a>) -> Result<Value<'a>> {
        let Some(
            &[Value::Text("storage"), Value::Name(Name::Storage(dtype)), Value::Text(key), _, count, ref rest @ ..],
        ) = self.heap.tuple(id)
        else {
            bail!("the pickle refers to something that is not a storage; {REMEDY}");
        };
        let (Some(count), [] | [Value::None]) = (size(count), rest) else {
            bail!("storage {key:?} has an element count that is out of range, or is a view; {REMEDY}");
        };
        let storage = Storage { key, dtype, count };
        match self.heap.by_key.get(key) {
            Some(&i) if self.heap.storages[i] == storage => Ok(Value::Storage(i)),
            Some(_) => bail!("storage {key:?} appears with two types or sizes; {REMEDY}"),
            None => {
                self.heap.by_key.insert(key, self.heap.storages.len());
                self.heap.storages.push(storage);
                Ok(Value::Storage(self.heap.storages.len() - 1))
            }
        }
    }

    /// Replaces the items from index `from` on by a tuple of them.
    fn tuple(&mut self, from: usize) {
        let items = self.stack.split_off(from);
        self.heap.tuples.push(items);
        self.stack.push(Value::Tuple(self.heap.tuples.len() - 1));
    }

    /// Returns the stack index of the last `count` items, which must be above the last mark.
    fn below(&self, count: usize) -> Result<usize> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(count).filter(|&from| from >= floor) {
            Some(from) => Ok(from),
            None => bail!("the pickle takes more items than there are; {REMEDY}"),
        }
    }

    /// Removes the top item.
    fn pop(&mut self) -> Result<Value<'a>> {
        let from = self.below(1)?;
        let value = self.stack[from];
        self.stack.truncate(from);
        Ok(value)
    }

    /// Removes the last mark and returns its stack index.
    fn mark(&mut self) -> Result<usize> {
        match self.marks.pop() {
            Some(mark) => Ok(mark),
            None => bail!("the pickle uses a mark that it has not set; {REMEDY}"),
        }
    }

    /// Reads `count` bytes.
    fn bytes(&mut self, count: u64) -> Result<&'a [u8]> {
        let end = usize::try_from(count).ok().and_then(|count| count.checked_add(self.at));
        match end.and_then(|end| self.input.get(self.at..end)) {
            Some(bytes) => {
                self.at += bytes.len();
                Ok(bytes)
            }
            None if self.input.len() == MAX_BYTES => bail!("the pickle is longer than {MAX_BYTES} bytes; {REMEDY}"),
            None => bail!("the pickle ends inside an instruction; {REMEDY}"),
        }
    }

    /// Reads `N` bytes.
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut all = [0; N];
        all.copy_from_slice(self.bytes(N as u64)?);
        Ok(all)
    }

    /// Reads up to the end of the line.
    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.input[self.at..];
        let Some(length) = rest.iter().position(|&b| b == b'\n') else {
            bail!("the pickle ends inside a name; {REMEDY}");
        };
        self.at += length + 1;
        match std::str::from_utf8(&rest[..length]) {
            Ok(line) => Ok(line),
            Err(_) => bail!("a name in the pickle is not UTF-8; {REMEDY}"),
        }
    }

    /// Pushes a string of `length` bytes. With `any`, for strings of Python 2, it may be arbitrary bytes.
    fn text(&mut self, length: u64, any: bool) -> Result<()> {
        let value = match std::str::from_utf8(self.bytes(length)?) {
            Ok(text) => Value::Text(text),
            Err(_) if any => Value::Other,
            Err(_) => bail!("a string in the pickle is not UTF-8; {REMEDY}"),
        };
        self.stack.push(value);
        Ok(())
    }
}

/// Returns a non-negative integer, or `None` for other values.
fn size(value: Value<'_>) -> Option<usize> {
    match value {
        Value::Int(n) => usize::try_from(n).ok(),
        _ => None,
    }
}

/// Converts a signed little-endian integer of any length.
fn long<'a>(bytes: &[u8]) -> Value<'a> {
    if bytes.len() > 8 {
        return Value::Other;
    }
    let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
    let mut all = [if negative { 0xff } else { 0 }; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(all))
}
