//! Copies between the host and the GPU, and within it.

use super::faults::failed;
use super::pinned::Pinned;
use super::{Driver, Nvidia, Rows};
use crate::bail;
use crate::device::{MAX_ASYNC_READS, Ticket};
use crate::error::Result;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUDA_MEMCPY2D, CUmemorytype};
use std::ptr;

/// Buffers through which writes go: those of two micro-batches (state, ids, labels), so that one may wait while the next is filled.
const STAGES: usize = 6;

/// Larger writes are waited for.
const STAGED: usize = 4 << 20;

impl Nvidia {
    pub(super) fn copy_in(&mut self, to: Rows, bytes: &[u8]) -> Result<()> {
        self.check(to, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.bind()?;
        let action = "copying to the GPU";
        if is_packed(to) && bytes.len() <= STAGED {
            return self.stage(to.address, bytes).map_err(|error| self.fault(action, error));
        }
        let started = if is_packed(to) {
            // SAFETY: `check` has found the rows in an allocation; `bytes` outlives the wait below.
            unsafe { result::memcpy_htod_async(to.address, bytes, self.stream.cu_stream()) }
        } else {
            self.start(&CUDA_MEMCPY2D {
                srcMemoryType: CUmemorytype::CU_MEMORYTYPE_HOST,
                srcHost: bytes.as_ptr().cast(),
                srcPitch: to.width,
                dstMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
                dstDevice: to.address,
                dstPitch: to.pitch,
                ..whole(to)
            })
        };
        // Where the GPU reads the host's memory itself, the copy may still be going on; after an error too.
        let waited = self.wait(action);
        started.map_err(|error| self.fault(action, error))?;
        waited
    }

    pub(super) fn copy_out(&mut self, from: Rows, bytes: &mut [u8]) -> Result<()> {
        self.check(from, bytes.len())?;
        if bytes.is_empty() {
            return self.sync();
        }
        self.bind()?;
        let action = "copying from the GPU";
        let started = if is_packed(from) {
            // SAFETY: `check` has found the rows in an allocation; `bytes` outlives the wait below.
            unsafe { result::memcpy_dtoh_async(bytes, from.address, self.stream.cu_stream()) }
        } else {
            self.start(&CUDA_MEMCPY2D {
                srcMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
                srcDevice: from.address,
                srcPitch: from.pitch,
                dstMemoryType: CUmemorytype::CU_MEMORYTYPE_HOST,
                dstHost: bytes.as_mut_ptr().cast(),
                dstPitch: from.width,
                ..whole(from)
            })
        };
        let waited = self.wait(action);
        started.map_err(|error| self.fault(action, error))?;
        waited
    }

    pub(super) fn copy_out_async(&mut self, from: Rows) -> Result<Ticket> {
        self.check(from, from.bytes())?;
        self.bind()?;
        let failed = failed("making room for what comes from the GPU");
        while self.async_reads.len() < MAX_ASYNC_READS {
            self.async_reads.push(Pinned::new().map_err(&failed)?);
        }
        let Some(number) = self.async_reads.iter().position(|post| !post.taken) else {
            bail!("{MAX_ASYNC_READS} tensors are on their way to the host already; collect one first")
        };
        let bytes = from.bytes();
        self.async_reads[number].reserve(bytes.max(1)).map_err(&failed)?;
        let copy = self.start(&CUDA_MEMCPY2D {
            srcMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
            srcDevice: from.address,
            srcPitch: from.pitch,
            dstMemoryType: CUmemorytype::CU_MEMORYTYPE_HOST,
            dstHost: self.async_reads[number].pointer(),
            dstPitch: from.width,
            ..whole(from)
        });
        let started = self.async_reads[number].started(copy, self.stream.cu_stream());
        started.map_err(|error| self.fault("copying from the GPU", error))?;
        let post = &mut self.async_reads[number];
        (post.taken, post.len) = (true, bytes);
        Ok(Ticket(number as u32))
    }

    pub(super) fn wait_copy_out(&mut self, ticket: Ticket, bytes: &mut [u8]) -> Result<()> {
        self.bind()?;
        let number = ticket.0 as usize;
        let Some(post) = self.async_reads.get(number).filter(|post| post.taken && post.len == bytes.len()) else {
            bail!("no tensor of {} bytes was posted as {ticket:?}", bytes.len())
        };
        post.wait().map_err(|error| self.fault("copying from the GPU", error))?;
        let post = &mut self.async_reads[number];
        bytes.copy_from_slice(post.bytes());
        post.taken = false;
        Ok(())
    }

    pub(super) fn copy_within(&mut self, from: Rows, to: Rows) -> Result<()> {
        if (from.rows, from.width) != (to.rows, to.width) {
            bail!("{} rows of {} bytes copied to {} of {}", from.rows, from.width, to.rows, to.width);
        }
        self.check(from, from.bytes())?;
        self.check(to, to.bytes())?;
        if from.bytes() == 0 {
            return Ok(());
        }
        self.bind()?;
        let started = if is_packed(from) && is_packed(to) {
            let (bytes, stream) = (from.bytes(), self.stream.cu_stream());
            // SAFETY: `check` has found both in allocations, which `free` keeps until work has ended.
            unsafe { result::memcpy_dtod_async(to.address, from.address, bytes, stream) }
        } else {
            self.start(&CUDA_MEMCPY2D {
                srcMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
                srcDevice: from.address,
                srcPitch: from.pitch,
                dstMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
                dstDevice: to.address,
                dstPitch: to.pitch,
                ..whole(to)
            })
        };
        started.map_err(|error| self.fault("copying on the GPU", error))
    }

    /// Starts a copy to the GPU from a buffer of its own, and does not wait.
    fn stage(&mut self, address: u64, bytes: &[u8]) -> Result<(), DriverError> {
        if self.stages.len() < STAGES {
            self.stages.push(Pinned::new()?);
            self.stage = self.stages.len() - 1;
        }
        let buffer = &mut self.stages[self.stage];
        self.stage = (self.stage + 1) % STAGES;
        buffer.reserve(bytes.len())?;
        buffer.bytes().copy_from_slice(bytes);
        let stream = self.stream.cu_stream();
        // SAFETY: `check` has found the rows in an allocation; the buffer is used again, or freed, only after the event that
        // `started` records.
        let copy = unsafe { result::memcpy_htod_async(address, buffer.bytes(), stream) };
        buffer.started(copy, stream)
    }

    /// Refuses rows that are not those of a slice so long, overlap, or lie in no allocation.
    fn check(&self, rows: Rows, bytes: usize) -> Result<()> {
        let Some(extent) = rows.extent().filter(|_| rows.rows.checked_mul(rows.width) == Some(bytes)) else {
            bail!("{bytes} bytes for {rows:?}")
        };
        let allocation = self.live.range(..=rows.address).next_back();
        let end = |start: &u64| (rows.address - start).checked_add(extent as u64);
        let inside = |(start, size): (&u64, &usize)| end(start).is_some_and(|end| end <= *size as u64);
        if bytes > 0 && !allocation.is_some_and(inside) {
            bail!("{extent} bytes at {:#x} lie in no allocation on {}", rows.address, self.device);
        }
        Ok(())
    }

    /// Starts a copy of rows that are a pitch apart.
    fn start(&self, copy: &CUDA_MEMCPY2D) -> Result<(), DriverError> {
        // SAFETY: each side is the memory that its kind names: on the GPU, rows that `check` has found in an allocation; on the host,
        // a slice of `rows * width` bytes that outlives the wait after this, or a pinned buffer of as many, which waits itself.
        unsafe { sys::cuMemcpy2DAsync_v2(ptr::from_ref(copy), self.stream.cu_stream()) }.result()
    }
}

fn is_packed(rows: Rows) -> bool {
    rows.rows == 1 || rows.pitch == rows.width
}

/// A copy of all rows, from and to nowhere yet.
fn whole(rows: Rows) -> CUDA_MEMCPY2D {
    CUDA_MEMCPY2D {
        srcXInBytes: 0,
        srcY: 0,
        srcMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
        srcHost: ptr::null(),
        srcDevice: 0,
        srcArray: ptr::null_mut(),
        srcPitch: 0,
        dstXInBytes: 0,
        dstY: 0,
        dstMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
        dstHost: ptr::null_mut(),
        dstDevice: 0,
        dstArray: ptr::null_mut(),
        dstPitch: 0,
        WidthInBytes: rows.width,
        Height: rows.rows,
    }
}
