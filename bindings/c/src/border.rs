//! The border to C: pointers become references here, panics end here, and one thread at a time comes in.
//!
//! The header states what the caller promises: a pointer is NULL or leads to what the call says, of the size that is
//! given, and a handle was not freed. NULL is checked, and all else cannot be.

use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, TryLockError};

use crate::status::*;

/// Object that C has a pointer to.
pub(crate) trait Handle {
    /// State behind the lock.
    type Inner;

    fn inner(&self) -> &Mutex<Locked<Self::Inner>>;
}

/// State of a handle, with the error of the last call that failed.
#[derive(Debug)]
pub(crate) struct Locked<T> {
    pub(crate) state: T,
    error: CString,
    code: u32,
}

impl<T> Locked<T> {
    pub(crate) fn new(state: T) -> Mutex<Self> {
        Mutex::new(Locked { state, error: CString::default(), code: 0 })
    }
}

/// Runs a call on a handle. Its error is kept for [`error`].
pub(crate) unsafe fn on<H: Handle>(
    handle: *const H,
    call: impl FnOnce(&mut H::Inner) -> Done,
) -> p2pd_status {
    // SAFETY: NULL, or a handle that was not freed.
    let Some(handle) = (unsafe { handle.as_ref() }) else { return P2PD_ERR_NULL };
    caught(|| {
        let mut locked = match handle.inner().try_lock() {
            Ok(locked) => locked,
            Err(TryLockError::WouldBlock) => return P2PD_ERR_BUSY,
            Err(TryLockError::Poisoned(_)) => return P2PD_ERR_PANIC,
        };
        match call(&mut locked.state) {
            Ok(status) => status,
            Err(fault) => {
                locked.error = c_text(fault.text.as_bytes());
                locked.code = fault.code;
                fault.status
            }
        }
    })
}

/// Returns the text and the code of the last call that failed. They stay until the next call that fails.
pub(crate) unsafe fn error<H: Handle>(handle: *const H) -> (*const c_char, u32) {
    let mut said = (c"".as_ptr(), 0);
    // SAFETY: as the caller's.
    let Some(handle) = (unsafe { handle.as_ref() }) else { return said };
    if let Ok(locked) = handle.inner().try_lock() {
        said = (locked.error.as_ptr(), locked.code);
    }
    said
}

/// Makes a handle and gives it to C.
pub(crate) unsafe fn make<H>(at: *mut *mut H, make: impl FnOnce() -> Result<H, Fault>) -> p2pd_status {
    if at.is_null() {
        return P2PD_ERR_NULL;
    }
    let mut made = std::ptr::null_mut();
    let status = caught(|| match make() {
        Ok(handle) => {
            made = Box::into_raw(Box::new(handle));
            P2PD_OK
        }
        Err(fault) => fault.status,
    });
    // SAFETY: not NULL, so it leads to a place for a pointer.
    unsafe { at.write(made) };
    status
}

/// Ends a handle that [`make`] gave.
pub(crate) unsafe fn free<H>(handle: *mut H) {
    if !handle.is_null() {
        // SAFETY: it came from `make`, and C gives it back once.
        let handle = unsafe { Box::from_raw(handle) };
        caught(|| {
            drop(handle);
            P2PD_OK
        });
    }
}

pub(crate) fn caught(call: impl FnOnce() -> p2pd_status) -> p2pd_status {
    // After a panic the lock is poisoned, so that nobody sees a state that was left half way.
    catch_unwind(AssertUnwindSafe(call)).unwrap_or(P2PD_ERR_PANIC)
}

/// Text for C. It ends at a zero byte.
pub(crate) fn c_text(text: &[u8]) -> CString {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    CString::new(&text[..end]).unwrap_or_default()
}

/// Reads a text of C's.
pub(crate) unsafe fn text<'a>(at: *const c_char) -> Result<&'a str, Fault> {
    if at.is_null() {
        return Err(Fault::bare(P2PD_ERR_NULL));
    }
    // SAFETY: not NULL, so it leads to a text with its zero.
    let text = unsafe { CStr::from_ptr(at) };
    text.to_str().map_err(|_| Fault::new(P2PD_ERR_ARGUMENT, "the text is not UTF-8"))
}

/// Bytes of C's to read; NULL is no bytes.
pub(crate) unsafe fn bytes<'a, T>(at: *const T, size: usize) -> Result<&'a [u8], Fault> {
    check(at.is_null(), size)?;
    if size == 0 {
        return Ok(&[]);
    }
    // SAFETY: not NULL, so it leads to so many bytes.
    Ok(unsafe { std::slice::from_raw_parts(at.cast(), size) })
}

/// A place of C's for bytes.
pub(crate) unsafe fn buffer<'a, T>(at: *mut T, size: usize) -> Result<&'a mut [u8], Fault> {
    check(at.is_null(), size)?;
    if size == 0 {
        return Ok(&mut []);
    }
    // SAFETY: not NULL, so it leads to so many bytes, which nobody else uses during the call.
    Ok(unsafe { std::slice::from_raw_parts_mut(at.cast(), size) })
}

fn check(null: bool, size: usize) -> Result<(), Fault> {
    if null && size > 0 {
        return Err(Fault::bare(P2PD_ERR_NULL));
    }
    // No object is larger, so such a size is a negative number.
    if isize::try_from(size).is_err() {
        Err(Fault::new(P2PD_ERR_ARGUMENT, "no buffer has this size"))
    } else {
        Ok(())
    }
}

/// Place of C's for one result.
#[derive(Clone, Copy)]
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Checks the place, so that nothing is done where its result could not be told.
    pub(crate) unsafe fn new(at: *mut T) -> Result<Self, Fault> {
        if at.is_null() { Err(Fault::bare(P2PD_ERR_NULL)) } else { Ok(Out(at)) }
    }

    pub(crate) fn put(self, value: T) {
        // SAFETY: not NULL, so it leads to a place of this type.
        unsafe { self.0.write(value) }
    }
}

/// Writes nothing's value to a place of C's, so that it has one however the call ends.
pub(crate) unsafe fn clear<T: Default>(at: *mut T) {
    if !at.is_null() {
        // SAFETY: not NULL, so it leads to a place of this type.
        unsafe { at.write(T::default()) }
    }
}

/// Struct that may grow at its end, and whose first field is its size as the caller knows it.
///
/// # Safety
/// `repr(C)`, a `u32` is the first field, and each pattern of bits is a value.
pub(crate) unsafe trait Sized32: Copy {
    /// Size of the first version.
    const FIRST: usize;
}

/// Place of C's for a struct, of the caller's size.
#[derive(Clone, Copy)]
pub(crate) struct OutStruct<T> {
    at: *mut T,
    size: u32,
}

impl<T: Sized32> OutStruct<T> {
    /// Checks the place and its size.
    pub(crate) unsafe fn new(at: *mut T) -> Result<Self, Fault> {
        // SAFETY: as the caller's.
        let size = unsafe { size_of_struct(at) }?;
        Ok(OutStruct { at, size })
    }

    /// Writes as much as the caller has room for. What the caller knows beyond is zero.
    pub(crate) fn put(self, mut value: T) {
        let (theirs, ours) = (self.size as usize, size_of::<T>());
        // SAFETY: the caller has so many bytes there, and said so in the first field, which is kept.
        unsafe {
            (&raw mut value).cast::<u32>().write(self.size);
            let at = self.at.cast::<u8>();
            at.copy_from_nonoverlapping((&raw const value).cast(), theirs.min(ours));
            if theirs > ours {
                at.add(ours).write_bytes(0, theirs - ours);
            }
        }
    }
}

/// Reads a struct of C's; NULL gives `default`. A field that this version does not have has to be zero.
pub(crate) unsafe fn read_struct<T: Sized32>(at: *const T, mut default: T) -> Result<T, Fault> {
    if at.is_null() {
        return Ok(default);
    }
    // SAFETY: as the caller's.
    let theirs = unsafe { size_of_struct(at) }? as usize;
    // SAFETY: the caller has `theirs` bytes there.
    let all = unsafe { std::slice::from_raw_parts(at.cast::<u8>(), theirs) };
    let known = theirs.min(size_of::<T>());
    if all[known..].iter().any(|byte| *byte != 0) {
        return Err(Fault::new(P2PD_ERR_SIZE, "a field is set that this library does not know"));
    }
    // SAFETY: each pattern of bits is a value of T.
    unsafe { (&raw mut default).cast::<u8>().copy_from_nonoverlapping(all.as_ptr(), known) };
    Ok(default)
}

unsafe fn size_of_struct<T: Sized32>(at: *const T) -> Result<u32, Fault> {
    if at.is_null() {
        return Err(Fault::bare(P2PD_ERR_NULL));
    }
    // SAFETY: the size is the first field.
    let size = unsafe { at.cast::<u32>().read() };
    // A struct of one page is far beyond what it may grow to: the field was not set.
    if (T::FIRST..=4096).contains(&(size as usize)) {
        Ok(size)
    } else {
        Err(Fault::new(P2PD_ERR_SIZE, format_args!("a struct says that it has {size} bytes")))
    }
}

/// Copies a text with its zero into a buffer of C's, and says how long it is without. `length` may be NULL.
pub(crate) unsafe fn put_text(to: *mut c_char, size: usize, length: *mut usize, text: &str) -> Done {
    if !length.is_null() {
        // SAFETY: not NULL, so it leads to a place for a size.
        unsafe { length.write(text.len()) };
    }
    // SAFETY: as the caller's.
    let buffer = unsafe { buffer(to, size) }?;
    let Some(place) = buffer.get_mut(..=text.len()) else {
        let wanted = text.len() + 1;
        return Err(Fault::new(
            P2PD_ERR_BUFFER,
            format_args!("the buffer needs {wanted} bytes and has {size}"),
        ));
    };
    place[..text.len()].copy_from_slice(text.as_bytes());
    place[text.len()] = 0;
    Ok(P2PD_OK)
}

/// Text as a field of fixed size, with its zero; what is too long is cut.
pub(crate) fn text_field<const N: usize>(text: &[u8]) -> [c_char; N] {
    let mut field = [0; N];
    for (place, byte) in field[..N - 1].iter_mut().zip(text) {
        *place = *byte as c_char;
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counter(Mutex<Locked<u32>>);

    impl Handle for Counter {
        type Inner = u32;
        fn inner(&self) -> &Mutex<Locked<u32>> {
            &self.0
        }
    }

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Grown {
        size: u32,
        first: u32,
        later: u32,
    }

    // SAFETY: numbers only.
    unsafe impl Sized32 for Grown {
        const FIRST: usize = 8;
    }

    #[test]
    fn a_panic_ends_at_the_border_and_a_second_thread_is_told() {
        let counter = Counter(Locked::new(0));
        // SAFETY: a live handle, in each call.
        let call = |f: &dyn Fn(&mut u32) -> Done| unsafe { on(&counter, f) };
        let inside = call(&|_| Ok(call(&|_| Ok(P2PD_OK))));
        assert_eq!(inside, P2PD_ERR_BUSY);
        let said = call(&|_| Err(Fault::of_peer(P2PD_ERR_RESET, 7)));
        // SAFETY: the text stays until the next error.
        let (text, code) = unsafe { error(&counter) };
        let text = unsafe { CStr::from_ptr(text) };
        assert_eq!((said, code), (P2PD_ERR_RESET, 7));
        assert_eq!(text, c"the peer gave the stream up, with code 7");
        assert_eq!(call(&|_| panic!("for the test")), P2PD_ERR_PANIC);
        assert_eq!(call(&|_| Ok(P2PD_OK)), P2PD_ERR_PANIC);
        assert_eq!(unsafe { on::<Counter>(std::ptr::null(), |_| Ok(P2PD_OK)) }, P2PD_ERR_NULL);
    }

    #[test]
    fn structs_of_older_and_newer_callers_are_told_apart_by_their_size() {
        let value = Grown { size: 0, first: 1, later: 2 };
        let mut old = [8_u32, 9, 9];
        // SAFETY: a place of the size that it says, in each call.
        unsafe { OutStruct::new(old.as_mut_ptr().cast::<Grown>()) }.unwrap().put(value);
        assert_eq!(old, [8, 1, 9]);
        let mut new = [16_u32, 9, 9, 9];
        unsafe { OutStruct::new(new.as_mut_ptr().cast::<Grown>()) }.unwrap().put(value);
        assert_eq!(new, [16, 1, 2, 0]);
        let read = |words: &[u32]| unsafe { read_struct(words.as_ptr().cast::<Grown>(), value) };
        assert_eq!(read(&[8, 5]).unwrap(), Grown { size: 8, first: 5, later: 2 });
        assert_eq!(read(&[16, 5, 6, 0]).unwrap(), Grown { size: 16, first: 5, later: 6 });
        assert_eq!(read(&[16, 5, 6, 7]).unwrap_err().status, P2PD_ERR_SIZE);
        assert_eq!(read(&[0, 5, 6]).unwrap_err().status, P2PD_ERR_SIZE);
    }
}
