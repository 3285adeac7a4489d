//! Scratch memory of kernels. All operations share one workspace, since they run one after another. It is replaced by a
//! larger one on demand. A captured list keeps the workspace whose address its launches contain until the list is
//! released.

use super::driver::Driver;
use crate::error::Result;

/// All live workspaces. The last one is current: operations planned from now on use it. The others belong to captured
/// lists.
#[derive(Default)]
pub struct Workspaces {
    all: Vec<Workspace>,
}

struct Workspace {
    address: u64,
    bytes: usize,
    /// The number of captured lists that use it.
    users: usize,
}

impl Workspaces {
    /// Returns the address and size in bytes of the current workspace, `(0, 0)` if there is none.
    pub fn present(&self) -> (u64, usize) {
        self.all.last().map_or((0, 0), |one| (one.address, one.bytes))
    }

    /// Makes the current workspace at least `bytes` large. When it has to grow, first frees all workspaces that no
    /// captured list uses.
    ///
    /// # Errors
    /// Fails when the device is out of memory.
    pub fn reserve(&mut self, driver: &mut impl Driver, bytes: usize) -> Result<()> {
        if bytes > self.present().1 {
            self.free_unused(driver, 0);
            let address = driver.alloc(bytes)?;
            self.all.push(Workspace { address, bytes, users: 0 });
        }
        Ok(())
    }

    /// Registers a captured list as a user of the current workspace. Returns its address, to be passed to
    /// [`release`](Self::release); `None` if there is no workspace.
    pub fn keep(&mut self) -> Option<u64> {
        let present = self.all.last_mut()?;
        present.users += 1;
        Some(present.address)
    }

    /// Ends one use registered by [`keep`](Self::keep), and frees older workspaces that have no users left.
    pub fn release(&mut self, driver: &mut impl Driver, address: u64) {
        if let Some(one) = self.all.iter_mut().find(|one| one.address == address) {
            one.users = one.users.saturating_sub(1);
        }
        self.free_unused(driver, 1);
    }

    /// Frees all workspaces. Nothing may use them any more.
    pub fn free(&mut self, driver: &mut impl Driver) {
        self.all.drain(..).for_each(|one| driver.free(one.address));
    }

    /// Frees the workspaces that no captured list uses, except the last `present` ones.
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
