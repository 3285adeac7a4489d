//! Copies between host and device, and from device to device.

use super::faults::failed;
use super::pinned::Pinned;
use super::{Driver, Nvidia, Rows};
use crate::bail;
use crate::device::{MAX_ASYNC_READS, PendingRead};
use crate::error::Result;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUDA_MEMCPY2D, CUmemorytype};
use std::ptr;

/// The number of pinned staging buffers for writes. That is enough for the writes of two micro-batches (state, ids,
/// labels), so that one may be in flight while the next is filled.
const STAGING_BUFFERS: usize = 6;

/// The largest write that goes through a staging buffer, in bytes. Larger ones are copied directly and waited for.
const MAX_STAGED: usize = 4 << 20;

impl Nvidia {
    /// Implements [`Driver::write`].
    pub(super) fn copy_in(&mut self, to: Rows, bytes: &[u8]) -> Result<()> {
        self.check(to, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.bind()?;
        let action = "copying to the GPU";
        if is_packed(to) && bytes.len() <= MAX_STAGED {
            return self.copy_in_staged(to.address, bytes).map_err(|error| self.fault(action, error));
        }
        let started = if is_packed(to) {
            // SAFETY: `check` found the rows in a live allocation, and `bytes` outlives the wait below.
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
        // The GPU may still be reading host memory, even after an error.
        let waited = self.wait(action);
        started.map_err(|error| self.fault(action, error))?;
        waited
    }

    /// Implements [`Driver::read`].
    pub(super) fn copy_out(&mut self, from: Rows, bytes: &mut [u8]) -> Result<()> {
        self.check(from, bytes.len())?;
        if bytes.is_empty() {
            return self.sync();
        }
        self.bind()?;
        let action = "copying from the GPU";
        let started = if is_packed(from) {
            // SAFETY: `check` found the rows in a live allocation, and `bytes` outlives the wait below.
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

    /// Implements [`Driver::read_async`], through a pinned buffer.
    pub(super) fn copy_out_async(&mut self, from: Rows) -> Result<PendingRead> {
        self.check(from, from.bytes())?;
        self.bind()?;
        let failed = failed("allocating a pinned buffer for a read");
        while self.async_reads.len() < MAX_ASYNC_READS {
            self.async_reads.push(Pinned::new().map_err(&failed)?);
        }
        let Some(number) = self.async_reads.iter().position(|read| !read.taken) else {
            bail!("{MAX_ASYNC_READS} asynchronous reads are pending already; call wait_read for one of them first")
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
        let read = &mut self.async_reads[number];
        (read.taken, read.len) = (true, bytes);
        Ok(PendingRead(number as u32))
    }

    /// Implements [`Driver::wait_read`].
    pub(super) fn wait_copy_out(&mut self, ticket: PendingRead, bytes: &mut [u8]) -> Result<()> {
        self.bind()?;
        let number = ticket.0 as usize;
        let Some(read) = self.async_reads.get(number).filter(|read| read.taken && read.len == bytes.len()) else {
            bail!("no read of {} bytes is pending as {ticket:?}", bytes.len())
        };
        read.wait().map_err(|error| self.fault("copying from the GPU", error))?;
        let read = &mut self.async_reads[number];
        bytes.copy_from_slice(read.bytes());
        read.taken = false;
        Ok(())
    }

    /// Implements [`Driver::copy`].
    pub(super) fn copy_within(&mut self, from: Rows, to: Rows) -> Result<()> {
        if (from.rows, from.width) != (to.rows, to.width) {
            bail!("cannot copy {} rows of {} bytes to {} rows of {}", from.rows, from.width, to.rows, to.width);
        }
        self.check(from, from.bytes())?;
        self.check(to, to.bytes())?;
        if from.bytes() == 0 {
            return Ok(());
        }
        self.bind()?;
        let started = if is_packed(from) && is_packed(to) {
            let (bytes, stream) = (from.bytes(), self.stream.cu_stream());
            // SAFETY: `check` found both in live allocations, and `free` waits for the work in flight.
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

    /// Copies `bytes` to a staging buffer, starts a copy from there to the GPU, and does not wait for it.
    fn copy_in_staged(&mut self, address: u64, bytes: &[u8]) -> Result<(), DriverError> {
        if self.staging.len() < STAGING_BUFFERS {
            self.staging.push(Pinned::new()?);
            self.next_staging = self.staging.len() - 1;
        }
        let buffer = &mut self.staging[self.next_staging];
        self.next_staging = (self.next_staging + 1) % STAGING_BUFFERS;
        buffer.reserve(bytes.len())?;
        buffer.bytes().copy_from_slice(bytes);
        let stream = self.stream.cu_stream();
        // SAFETY: `check` found the rows in a live allocation. The buffer is reused or freed only after the event that
        // `started` records.
        let copy = unsafe { result::memcpy_htod_async(address, buffer.bytes(), stream) };
        buffer.started(copy, stream)
    }

    /// Checks rows against a host slice of `bytes` bytes.
    ///
    /// # Errors
    /// Fails if the rows have another size, overlap, or do not lie in a live allocation.
    fn check(&self, rows: Rows, bytes: usize) -> Result<()> {
        let Some(extent) = rows.extent().filter(|_| rows.rows.checked_mul(rows.width) == Some(bytes)) else {
            bail!("{bytes} host bytes do not match {rows:?}")
        };
        let allocation = self.live.range(..=rows.address).next_back();
        let end = |start: &u64| (rows.address - start).checked_add(extent as u64);
        let inside = |(start, size): (&u64, &usize)| end(start).is_some_and(|end| end <= *size as u64);
        if bytes > 0 && !allocation.is_some_and(inside) {
            bail!("{extent} bytes at {:#x} do not lie in an allocation on {}", rows.address, self.device);
        }
        Ok(())
    }

    /// Starts a 2-D copy.
    fn start(&self, copy: &CUDA_MEMCPY2D) -> Result<(), DriverError> {
        // SAFETY: each side is memory of the kind that it names: on the GPU, rows that `check` found in a live
        // allocation; on the host, `rows * width` bytes of a slice that outlives the wait after this, or of a pinned
        // buffer, which waits for its own copies.
        unsafe { sys::cuMemcpy2DAsync_v2(ptr::from_ref(copy), self.stream.cu_stream()) }.result()
    }
}

/// Returns whether the rows are contiguous.
fn is_packed(rows: Rows) -> bool {
    rows.rows == 1 || rows.pitch == rows.width
}

/// Returns a 2-D copy of all rows whose source and destination are still null.
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
