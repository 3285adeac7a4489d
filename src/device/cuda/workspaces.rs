//! Scratch memory of kernels, one piece for all operations, which run one after another. It grows; a captured list keeps the piece
//! that its launches name, until it is released.

use super::driver::Driver;
use crate::error::Result;

/// The last piece is the one that operations planned from now on use; the others belong to captured lists.
#[derive(Default)]
pub struct Workspaces {
    all: Vec<Workspace>,
}

struct Workspace {
    address: u64,
    bytes: usize,
    /// Captured lists that use it.
    users: usize,
}

impl Workspaces {
    /// Address and bytes of the present one; zeros where there is none.
    pub fn present(&self) -> (u64, usize) {
        self.all.last().map_or((0, 0), |one| (one.address, one.bytes))
    }

    /// Sees to it that the present one has so many bytes. One that no captured list uses makes room first.
    ///
    /// # Errors
    /// Out of memory.
    pub fn reserve(&mut self, driver: &mut impl Driver, bytes: usize) -> Result<()> {
        if bytes > self.present().1 {
            self.free_unused(driver, 0);
            let address = driver.alloc(bytes)?;
            self.all.push(Workspace { address, bytes, users: 0 });
        }
        Ok(())
    }

    /// A captured list uses the present one from now on. Returns what to release it by.
    pub fn keep(&mut self) -> Option<u64> {
        let present = self.all.last_mut()?;
        present.users += 1;
        Some(present.address)
    }

    /// A captured list that [kept](Self::keep) it is gone.
    pub fn release(&mut self, driver: &mut impl Driver, address: u64) {
        if let Some(one) = self.all.iter_mut().find(|one| one.address == address) {
            one.users = one.users.saturating_sub(1);
        }
        self.free_unused(driver, 1);
    }

    /// All of them; nothing uses them any more.
    pub fn free(&mut self, driver: &mut impl Driver) {
        self.all.drain(..).for_each(|one| driver.free(one.address));
    }

    /// Frees what no captured list uses, but for the last `present`.
    fn free_unused(&mut self, driver: &mut impl Driver, present: usize) {
        let older = self.all.len().saturating_sub(present);
        let mut number = 0;
        self.all.retain(|one| {
            number += 1;
            let keep = one.users > 0 || number > older;
            if !keep {
                driver.free(one.address);
            }
            keep
        });
    }
}
