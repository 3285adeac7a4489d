//! Tensors on their way to the host, for devices whose work is done when a call returns.

use super::{MAX_ASYNC_READS, Ticket};
use crate::bail;
use crate::error::Result;

/// Bytes that wait to be collected.
#[derive(Default)]
pub struct AsyncReads {
    slots: [Slot; MAX_ASYNC_READS],
}

#[derive(Default)]
struct Slot {
    taken: bool,
    /// Kept for the next post: a step allocates nothing.
    bytes: Vec<u8>,
}

impl AsyncReads {
    /// Room for so many bytes, to be filled now.
    ///
    /// # Errors
    /// Too many under way.
    pub fn read_async(&mut self, bytes: usize) -> Result<(Ticket, &mut [u8])> {
        let Some(number) = self.slots.iter().position(|slot| !slot.taken) else {
            bail!("{MAX_ASYNC_READS} tensors are on their way to the host already; collect one first")
        };
        let slot = &mut self.slots[number];
        slot.taken = true;
        slot.bytes.resize(bytes, 0);
        Ok((Ticket(number as u32), &mut slot.bytes))
    }

    /// # Errors
    /// Nothing was posted under this ticket, or something of another size.
    pub fn wait_read(&mut self, ticket: Ticket, bytes: &mut [u8]) -> Result<()> {
        let slot = self.slots.get_mut(ticket.0 as usize).filter(|slot| slot.taken && slot.bytes.len() == bytes.len());
        let Some(slot) = slot else { bail!("no tensor of {} bytes was posted as {ticket:?}", bytes.len()) };
        bytes.copy_from_slice(&slot.bytes);
        slot.taken = false;
        Ok(())
    }
}
