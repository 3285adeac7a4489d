//! Asynchronous reads on devices that run synchronously: the data is copied at once and held until it is waited for.

use super::{MAX_ASYNC_READS, PendingRead};
use crate::bail;
use crate::error::Result;

/// Pending asynchronous reads.
#[derive(Default)]
pub struct AsyncReads {
    slots: [Slot; MAX_ASYNC_READS],
}

/// Buffer of one pending read.
#[derive(Default)]
struct Slot {
    taken: bool,
    /// Reused by the next read, so that a training step allocates nothing.
    bytes: Vec<u8>,
}

impl AsyncReads {
    /// Takes a free slot and returns its ticket and a buffer of `bytes` bytes, which the caller fills.
    ///
    /// # Errors
    /// When [`MAX_ASYNC_READS`] reads are pending.
    pub fn read_async(&mut self, bytes: usize) -> Result<(PendingRead, &mut [u8])> {
        let Some(number) = self.slots.iter().position(|slot| !slot.taken) else {
            bail!("{MAX_ASYNC_READS} asynchronous reads are pending already; call wait_read for one of them first")
        };
        let slot = &mut self.slots[number];
        slot.taken = true;
        slot.bytes.resize(bytes, 0);
        Ok((PendingRead(number as u32), &mut slot.bytes))
    }

    /// Copies the data of a pending read into `bytes` and frees its slot.
    ///
    /// # Errors
    /// When no read of this size is pending under `ticket`.
    pub fn wait_read(&mut self, ticket: PendingRead, bytes: &mut [u8]) -> Result<()> {
        let slot = self.slots.get_mut(ticket.0 as usize).filter(|slot| slot.taken && slot.bytes.len() == bytes.len());
        let Some(slot) = slot else { bail!("no read of {} bytes is pending as {ticket:?}", bytes.len()) };
        bytes.copy_from_slice(&slot.bytes);
        slot.taken = false;
        Ok(())
    }
}
