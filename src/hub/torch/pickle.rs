//! A machine for the pickles of `torch.save` that executes nothing.
//!
//! A pickle is a program for a stack machine, and Python's own runs whatever function it names. This one knows the
//! instructions that a dictionary of tensors needs, builds plain data, and refuses every name but the few below. The
//! instructions are those of `pickletools.py` of Python 3.14.

use std::collections::HashMap;

use safetensors::Dtype;

use super::known::{Name, known};
use crate::bail;
use crate::error::Result;

const REMEDY: &str =
    "the file is truncated, damaged or no state dict; save it again with torch.save(model.state_dict(), path)";

/// The longest pickle, in bytes. A checkpoint of ten thousand tensors has two million.
const MOST: usize = 4 << 20;
/// Axes of a tensor.
const MOST_AXES: usize = 8;

/// A value on the stack. Containers, which may be reached by several ways and may hold themselves, lie in the [`Heap`].
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
    /// What nobody asks for: floats, long integers, bytes, sets, and what [`Name::Data`] makes.
    Other,
}

/// Numbers in the file that tensors are views of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Storage<'a> {
    pub key: &'a str,
    pub dtype: Dtype,
    /// Elements.
    pub count: usize,
}

/// A view of a storage, in elements.
#[derive(Clone, Debug)]
pub struct View {
    pub storage: usize,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// What pickles built.
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
    /// The entries of a dictionary in the order in which they were put in; `None` for anything else.
    pub fn dict(&self, value: Value<'a>) -> Option<&[(Value<'a>, Value<'a>)]> {
        match value {
            Value::Dict(i) => Some(&self.dicts[i]),
            _ => None,
        }
    }

    pub fn list(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match value {
            Value::List(i) => Some(&self.lists[i]),
            _ => None,
        }
    }

    pub fn storage(&self, key: &str) -> Option<usize> {
        self.by_key.get(key).copied()
    }

    fn tuple(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match value {
            Value::Tuple(i) => Some(&self.tuples[i]),
            _ => None,
        }
    }
}

/// Runs the pickle at the start of `bytes`; returns what it left and its length.
///
/// # Errors
/// An unknown instruction, a name that is not on the list, a pickle that is cut off or whose parts do not fit.
pub fn run<'a>(bytes: &'a [u8], heap: &mut Heap<'a>) -> Result<(Value<'a>, usize)> {
    let mut machine = Machine {
        input: &bytes[..bytes.len().min(MOST)],
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        heap,
    };
    while !machine.step()? {}
    match machine.stack.as_slice() {
        &[value] => Ok((value, machine.at)),
        items => bail!("the pickle leaves {} items instead of one; {REMEDY}", items.len()),
    }
}

struct Machine<'a, 'h> {
    input: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    heap: &'h mut Heap<'a>,
}

impl<'a> Machine<'a, '_> {
    /// Runs one instruction; true after the last.
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
                    _ => bail!("the pickle puts items into something that is no set; {REMEDY}"),
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
                    bail!("a name in the pickle is no text; {REMEDY}");
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
                (_, class) => bail!("the pickle asks for an object of {class:?}; {REMEDY}"),
            },
            b'b' => {
                self.pop()?;
                // The attributes of an OrderedDict are the versions of modules, those of other data are not read.
                let Some(Value::Dict(_) | Value::Other) = self.stack.last() else {
                    bail!("the pickle gives attributes to something that has none; {REMEDY}");
                };
            }
            b'Q' => {
                let id = self.pop()?;
                let value = self.storage(id)?;
                self.stack.push(value);
            }
            code => bail!("byte {} is the instruction {code:#04x}, which no state dict needs; {REMEDY}", self.at - 1),
        }
        Ok(false)
    }

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
                _ => bail!("a tuple in the pickle lacks items; {REMEDY}"),
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
                    _ => bail!("the pickle appends to something that is no list; {REMEDY}"),
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
                    _ => bail!("the pickle puts items into something that is no dictionary; {REMEDY}"),
                }
            }
        }
        Ok(())
    }

    /// BINPUT, LONG_BINPUT, BINGET, LONG_BINGET, MEMOIZE.
    fn remember(&mut self, code: u8) -> Result<()> {
        let id = match code {
            b'q' | b'h' => self.fixed::<1>()?[0].into(),
            b'r' | b'j' => u32::from_le_bytes(self.fixed()?),
            // As many as there are bytes in a pickle.
            _ => self.memo.len() as u32,
        };
        if matches!(code, b'h' | b'j') {
            match self.memo.get(&id) {
                Some(&value) => self.stack.push(value),
                None => bail!("the pickle asks for item {id} of its memo, which it has not put there; {REMEDY}"),
            }
        } else {
            let Some(&value) = self.stack.last() else {
                bail!("the pickle remembers an item of an empty stack; {REMEDY}");
            };
            self.memo.insert(id, value);
        }
        Ok(())
    }

    fn call(&mut self, function: Value<'a>, arguments: Value<'a>) -> Result<Value<'a>> {
        let (Value::Name(function), Some(arguments)) = (function, self.heap.tuple(arguments)) else {
            bail!("the pickle calls something that is no function; {REMEDY}");
        };
        match (function, arguments) {
            (Name::OrderedDict, []) | (Name::OtherDict, _) => {
                self.heap.dicts.push(Vec::new());
                Ok(Value::Dict(self.heap.dicts.len() - 1))
            }
            (Name::Data, _) => Ok(Value::Other),
            // Behind these come whether it needs a gradient, hooks and metadata.
            (Name::RebuildTensor, &[Value::Storage(storage), Value::Int(offset), shape, strides, ..]) => {
                let sizes = |value| {
                    let items = self.heap.tuple(value).filter(|items| items.len() <= MOST_AXES)?;
                    items.iter().map(|&item| size(item)).collect::<Option<Vec<usize>>>()
                };
                let (Some(shape), Some(strides), Ok(offset)) = (sizes(shape), sizes(strides), usize::try_from(offset))
                else {
                    bail!("a tensor's offset, shape or strides are out of range; {REMEDY}");
                };
                if shape.len() != strides.len() {
                    bail!("a tensor has {} axes and {} strides; {REMEDY}", shape.len(), strides.len());
                }
                self.heap.views.push(View { storage, offset, shape, strides });
                Ok(Value::Tensor(self.heap.views.len() - 1))
            }
            (Name::RebuildParameter, &[tensor @ Value::Tensor(_), ..]) => Ok(tensor),
            (function, _) => bail!("the pickle calls {function:?} with other arguments than torch.save does; {REMEDY}"),
        }
    }

    /// `("storage", type, key, device, elements)`, in older files with a view of the storage behind, which is None.
    fn storage(&mut self, id: Value<'a>) -> Result<Value<'a>> {
        let Some(
            &[Value::Text("storage"), Value::Name(Name::Storage(dtype)), Value::Text(key), _, count, ref rest @ ..],
        ) = self.heap.tuple(id)
        else {
            bail!("the pickle asks for something that is no storage of a tensor; {REMEDY}");
        };
        let (Some(count), [] | [Value::None]) = (size(count), rest) else {
            bail!("storage {key:?} has a number of elements that is out of range, or is a view; {REMEDY}");
        };
        let storage = Storage { key, dtype, count };
        match self.heap.by_key.get(key) {
            Some(&i) if self.heap.storages[i] == storage => Ok(Value::Storage(i)),
            Some(_) => bail!("storage {key:?} is there with two types or sizes; {REMEDY}"),
            None => {
                self.heap.by_key.insert(key, self.heap.storages.len());
                self.heap.storages.push(storage);
                Ok(Value::Storage(self.heap.storages.len() - 1))
            }
        }
    }

    fn tuple(&mut self, from: usize) {
        let items = self.stack.split_off(from);
        self.heap.tuples.push(items);
        self.stack.push(Value::Tuple(self.heap.tuples.len() - 1));
    }

    /// Where the last `count` items begin.
    fn below(&self, count: usize) -> Result<usize> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(count).filter(|&from| from >= floor) {
            Some(from) => Ok(from),
            None => bail!("the pickle takes more items than there are; {REMEDY}"),
        }
    }

    fn pop(&mut self) -> Result<Value<'a>> {
        let from = self.below(1)?;
        let value = self.stack[from];
        self.stack.truncate(from);
        Ok(value)
    }

    fn mark(&mut self) -> Result<usize> {
        match self.marks.pop() {
            Some(mark) => Ok(mark),
            None => bail!("the pickle ends a list that it has not begun; {REMEDY}"),
        }
    }

    fn bytes(&mut self, count: u64) -> Result<&'a [u8]> {
        let end = usize::try_from(count).ok().and_then(|count| count.checked_add(self.at));
        match end.and_then(|end| self.input.get(self.at..end)) {
            Some(bytes) => {
                self.at += bytes.len();
                Ok(bytes)
            }
            None if self.input.len() == MOST => bail!("the pickle is longer than {MOST} bytes; {REMEDY}"),
            None => bail!("the pickle ends within an instruction; {REMEDY}"),
        }
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut all = [0; N];
        all.copy_from_slice(self.bytes(N as u64)?);
        Ok(all)
    }

    /// Up to the end of the line.
    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.input[self.at..];
        let Some(length) = rest.iter().position(|&b| b == b'\n') else {
            bail!("the pickle ends within a name; {REMEDY}");
        };
        self.at += length + 1;
        match std::str::from_utf8(&rest[..length]) {
            Ok(line) => Ok(line),
            Err(_) => bail!("a name in the pickle is not UTF-8; {REMEDY}"),
        }
    }

    /// `any`: a string of Python 2 may be bytes of any kind.
    fn text(&mut self, length: u64, any: bool) -> Result<()> {
        let value = match std::str::from_utf8(self.bytes(length)?) {
            Ok(text) => Value::Text(text),
            Err(_) if any => Value::Other,
            Err(_) => bail!("a text in the pickle is not UTF-8; {REMEDY}"),
        };
        self.stack.push(value);
        Ok(())
    }
}

fn size(value: Value<'_>) -> Option<usize> {
    match value {
        Value::Int(n) => usize::try_from(n).ok(),
        _ => None,
    }
}

/// A signed number of any length, little-endian.
fn long<'a>(bytes: &[u8]) -> Value<'a> {
    if bytes.len() > 8 {
        return Value::Other;
    }
    let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
    let mut all = [if negative { 0xff } else { 0 }; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(all))
}
