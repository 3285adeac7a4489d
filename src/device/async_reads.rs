//! Tensors on their way to the host, for devices whose work is done when a call returns.

use super::{POSTS, Ticket};
use crate::bail;
use crate::error::Result;

/// Bytes that wait to be collected.
#[derive(Default)]
pub struct Posts {
    slots: [Slot; POSTS],
}

#[derive(Default)]
struct Slot {
    taken: bool,
    /// Kept for the next post: a step allocates nothing.
    bytes: Vec<u8>,
}

impl Posts {
    /// Room for so many bytes, to be filled now.
    ///
    /// # Errors
    /// Too many under way.
    pub fn post(&mut self, bytes: usize) -> Result<(Ticket, &mut [u8])> {
        let Some(number) = self.slots.iter().position(|slot| !slot.taken) else {
            bail!("{POSTS} tensors are on their way to the host already; collect one first")
        };
        let slot = &mut self.slots[number];
        slot.taken = true;
        slot.bytes.resize(bytes, 0);
        Ok((Ticket(number as u32), &mut slot.bytes))
    }

    /// # Errors
    /// Nothing was posted under this ticket, or something of another size.
    pub fn collect(&mut self, ticket: Ticket, bytes: &mut [u8]) -> Result<()> {
        let slot = self.slots.get_mut(ticket.0 as usize).filter(|slot| slot.taken && slot.bytes.len() == bytes.len());
        let Some(slot) = slot else { bail!("no tensor of {} bytes was posted as {ticket:?}", bytes.len()) };
        bytes.copy_from_slice(&slot.bytes);
        slot.taken = false;
        Ok(())
    }
}
