//! Access lists of files: who may open one.

use std::fs::File;
use std::io;
use std::os::windows::io::AsRawHandle;
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::{
    CloseHandle, GENERIC_ALL, GENERIC_READ, GENERIC_WRITE, HANDLE, LocalFree,
};
use windows_sys::Win32::Security::Authorization::{
    ConvertSidToStringSidW, ConvertStringSecurityDescriptorToSecurityDescriptorW, GetSecurityInfo,
    SDDL_REVISION_1, SE_FILE_OBJECT,
};
use windows_sys::Win32::Security::{
    ACCESS_ALLOWED_ACE, ACE_HEADER, ACL, DACL_SECURITY_INFORMATION, EqualSid, GetAce, GetTokenInformation,
    INHERIT_ONLY_ACE, IsWellKnownSid, OWNER_SECURITY_INFORMATION, PROTECTED_DACL_SECURITY_INFORMATION,
    PSECURITY_DESCRIPTOR, PSID, SetKernelObjectSecurity, TOKEN_QUERY, TOKEN_USER, TokenUser,
    WinBuiltinAdministratorsSid, WinCreatorOwnerRightsSid, WinLocalSystemSid,
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_APPEND_DATA, FILE_READ_DATA, FILE_WRITE_DATA, WRITE_DAC, WRITE_OWNER,
};
use windows_sys::Win32::System::SystemServices::{
    ACCESS_ALLOWED_ACE_TYPE, ACCESS_DENIED_ACE_TYPE, ACCESS_DENIED_CALLBACK_ACE_TYPE,
    ACCESS_DENIED_OBJECT_ACE_TYPE,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

/// Rights to read a file, or to have it read.
const READ: u32 = FILE_READ_DATA | GENERIC_READ | GENERIC_ALL;
/// Rights to change a file, or to have it changed.
const WRITE: u32 = FILE_WRITE_DATA | FILE_APPEND_DATA | WRITE_DAC | WRITE_OWNER | GENERIC_WRITE | GENERIC_ALL;

/// The present user, as the system numbers it.
#[derive(Debug)]
struct User {
    /// `TOKEN_USER` with what it points to, aligned as that.
    token: Vec<u64>,
}

impl User {
    #[allow(unsafe_code)]
    fn present() -> io::Result<User> {
        let mut token: HANDLE = null_mut();
        // SAFETY: it writes a handle to a place of ours.
        done(unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &mut token) })?;
        // A security identifier has 68 bytes at most.
        let mut user = User { token: vec![0; 16] };
        let (place, bytes, mut length) = (user.token.as_mut_ptr().cast(), 16 * 8, 0);
        // SAFETY: it writes at most so many bytes to that place; the handle is ours, and closed once.
        let got = unsafe {
            let got = done(GetTokenInformation(token, TokenUser, place, bytes, &mut length));
            CloseHandle(token);
            got
        };
        got.map(|()| user)
    }

    #[allow(unsafe_code)]
    fn sid(&self) -> PSID {
        // SAFETY: the system has written this struct there, and the vector is aligned for it.
        unsafe { (*self.token.as_ptr().cast::<TOKEN_USER>()).User.Sid }
    }
}

/// Memory of the system's, which is given back.
#[derive(Debug)]
struct Local(*mut core::ffi::c_void);

impl Drop for Local {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: the system gave it to us to be freed so, once.
        unsafe { LocalFree(self.0) };
    }
}

fn done(result: i32) -> io::Result<()> {
    if result != 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn no_error(result: u32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result.cast_signed())) }
}

/// Gives a file, open with the right to it, an access list of the present user alone, which inherits nothing.
#[allow(unsafe_code)]
pub(super) fn restrict(file: &File) -> io::Result<()> {
    let user = User::present()?;
    let mut text = null_mut();
    // SAFETY: the identifier lives as long as `user`; the text that comes is freed once, and ends with a zero.
    let sid = unsafe {
        done(ConvertSidToStringSidW(user.sid(), &mut text))?;
        let _text = Local(text.cast());
        let length = (0..).take_while(|n| *text.add(*n) != 0).count();
        String::from_utf16_lossy(std::slice::from_raw_parts(text, length))
    };
    // A protected list with one entry: all file rights, to this user.
    let list: Vec<u16> = format!("D:P(A;;FA;;;{sid})\0").encode_utf16().collect();
    let mut descriptor = null_mut();
    // SAFETY: the text ends with a zero; the descriptor is freed after its last use, and the handle is open.
    unsafe {
        let (text, none) = (list.as_ptr(), null_mut());
        done(ConvertStringSecurityDescriptorToSecurityDescriptorW(
            text,
            SDDL_REVISION_1,
            &mut descriptor,
            none,
        ))?;
        let _descriptor = Local(descriptor);
        // Not SetSecurityInfo, which asks the folder for more entries.
        let what = DACL_SECURITY_INFORMATION | PROTECTED_DACL_SECURITY_INFORMATION;
        done(SetKernelObjectSecurity(file.as_raw_handle(), what, descriptor))
    }
}

/// Judges a file that is believed because it is the user's own: nobody else may have it, or read or change it, as these
/// permission bits say. The system itself and its administrators may.
#[allow(unsafe_code)]
pub(crate) fn check_own(file: &File, forbidden: u32) -> io::Result<()> {
    let denied = |why: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, why.to_owned()));
    let user = User::present()?;
    let (mut owner, mut acl, mut descriptor): (PSID, *mut ACL, PSECURITY_DESCRIPTOR) =
        (null_mut(), null_mut(), null_mut());
    let what = OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION;
    let handle = file.as_raw_handle();
    // SAFETY: it writes pointers into a descriptor, which is freed after their last use.
    no_error(unsafe {
        let (none, list) = (null_mut(), &mut acl);
        GetSecurityInfo(handle, SE_FILE_OBJECT, what, &mut owner, none, list, null_mut(), &mut descriptor)
    })?;
    let _descriptor = Local(descriptor);
    if !is_trusted(owner, &user) {
        return denied("belongs to another user; give another path");
    }
    let (rights, uses) =
        if forbidden & 0o044 == 0 { (WRITE, "written") } else { (READ | WRITE, "read or written") };
    if others(acl, &user).is_none_or(|open| open & rights != 0) {
        let remedy = r#"mend it by: icacls FILE /inheritance:r /grant:r "%USERNAME%:F""#;
        return denied(&format!("can be {uses} by others; {remedy}"));
    }
    Ok(())
}

#[allow(unsafe_code)]
fn is_trusted(sid: PSID, user: &User) -> bool {
    let known = [WinLocalSystemSid, WinBuiltinAdministratorsSid, WinCreatorOwnerRightsSid];
    // SAFETY: both point to identifiers that the system wrote, and live.
    unsafe { EqualSid(sid, user.sid()) != 0 || known.iter().any(|kind| IsWellKnownSid(sid, *kind) != 0) }
}

/// Returns the rights that a list gives to others, all together. `None`: there is no list, or one that is not understood,
/// so that they may have any.
#[allow(unsafe_code)]
fn others(acl: *const ACL, user: &User) -> Option<u32> {
    if acl.is_null() {
        return None;
    }
    let mut rights = 0;
    // SAFETY: the system has written the list, with so many entries.
    for number in 0..u32::from(unsafe { (*acl).AceCount }) {
        let mut entry = null_mut();
        // SAFETY: it gives a place inside the list, where an entry begins with its header.
        let header: ACE_HEADER = unsafe {
            done(GetAce(acl, number, &mut entry)).ok()?;
            *entry.cast::<ACE_HEADER>()
        };
        let denials =
            [ACCESS_DENIED_ACE_TYPE, ACCESS_DENIED_OBJECT_ACE_TYPE, ACCESS_DENIED_CALLBACK_ACE_TYPE];
        let kind = u32::from(header.AceType);
        if denials.contains(&kind) || u32::from(header.AceFlags) & INHERIT_ONLY_ACE != 0 {
            continue;
        }
        if kind != ACCESS_ALLOWED_ACE_TYPE {
            return None;
        }
        let entry: *mut ACCESS_ALLOWED_ACE = entry.cast();
        // SAFETY: an entry of this type has a mask, and its identifier begins in place of `SidStart`.
        let (mask, sid) = unsafe { ((*entry).Mask, (&raw mut (*entry).SidStart).cast()) };
        if !is_trusted(sid, user) {
            rights |= mask;
        }
    }
    Some(rights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_private_file_is_its_owners_alone_and_another_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (private, open) = (dir.path().join("private"), dir.path().join("open"));
        let mut file = crate::create_private(&private).unwrap();
        assert!(File::open(&private).is_err(), "nobody opens it before it is closed");
        file.write_all(b"secret").unwrap();
        drop(file);
        assert_eq!(crate::read_private(&private, 10).unwrap(), "secret");
        let acl_of = |path| {
            let file = File::open(path).unwrap();
            (check_own(&file, 0o077), check_own(&file, 0o022))
        };
        assert!(matches!(acl_of(&private), (Ok(()), Ok(()))));
        std::fs::write(&open, "secret").unwrap();
        let given = std::process::Command::new("icacls").arg(&open).args(["/grant", "*S-1-1-0:R"]).status();
        match acl_of(&open) {
            (Err(why), Ok(())) => {
                assert_eq!(why.kind(), io::ErrorKind::PermissionDenied);
                assert!(why.to_string().contains("icacls"), "{why}");
            }
            judged => panic!("everybody may read it, {given:?}: {judged:?}"),
        }
    }
}
