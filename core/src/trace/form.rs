//! Spelling of a value in a trace: words with one space between them, and in exactly one way.
//!
//! Long: one short form for each type that a trace can hold.
//!
//! Numbers are decimal, times are nanoseconds (the wall clock's microseconds), and bytes are hexadecimal with `-` for
//! none. A value that may be missing is `-`; a list is its length and its items. In text a space is `+`. Each byte of
//! `+`, `%` and of all that is not a graphic ASCII character is `%` and two hexadecimal digits. The empty text is `%`
//! and the text `-` is `%2d`.

use core::fmt::{self, Write};
use core::str::FromStr;
use core::time::Duration;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use smallvec::{Array, SmallVec};

use crate::address::PeerAddress;
use crate::call::ConnectId;
use crate::identity::NodeId;
use crate::io::{QueryId, SockId};
use crate::meeting::{Code, MeetingId};
use crate::name::Name;
use crate::pipe::{PipeId, ProtocolTag};
use crate::time::{Instant, WallTime};

use super::LineError;

/// Value that can be written into a line.
pub(super) trait Put {
    fn put(&self, line: &mut String);
}

/// Value that can be read out of a line.
pub(super) trait Take: Sized {
    fn take(words: &mut Words<'_>) -> Result<Self, LineError>;

    /// Returns any value.
    #[cfg(test)]
    fn any(g: &mut quickcheck::Gen) -> Self;

    /// Returns a value of each variant.
    #[cfg(test)]
    fn every(g: &mut quickcheck::Gen) -> Vec<Self> {
        vec![Self::any(g)]
    }
}

/// Appends a word.
pub(super) fn word(line: &mut String, text: impl fmt::Display) {
    if !line.is_empty() {
        line.push(' ');
    }
    // A String takes everything.
    let _ = write!(line, "{text}");
}

/// The words of a line that are still to be read.
#[derive(Debug)]
pub(super) struct Words<'a> {
    rest: Option<&'a str>,
    /// The number of the last word, from 1.
    at: usize,
}

impl<'a> Words<'a> {
    pub(super) fn of(line: &'a str) -> Self {
        Words { rest: Some(line), at: 0 }
    }

    pub(super) fn next(&mut self) -> Result<&'a str, LineError> {
        let rest = self.rest.ok_or(LineError::Short)?;
        let (word, rest) = rest.split_once(' ').map_or((rest, None), |(word, rest)| (word, Some(rest)));
        self.rest = rest;
        self.at += 1;
        Ok(word)
    }

    pub(super) fn end(&self) -> Result<(), LineError> {
        if self.rest.is_some() { Err(LineError::Long(self.at + 1)) } else { Ok(()) }
    }

    /// Returns the error of the word that was read last.
    pub(super) fn wrong(&self) -> LineError {
        LineError::Word(self.at)
    }

    fn parse<T: FromStr>(&mut self) -> Result<T, LineError> {
        self.next()?.parse().map_err(|_| self.wrong())
    }
}

/// Reads a whole line, which must be spelled as it would be written.
pub(super) fn whole<T: Put + Take>(line: &str) -> Result<T, LineError> {
    let mut words = Words::of(line);
    let value = T::take(&mut words)?;
    words.end()?;
    spelled(line, |again| value.put(again))?;
    Ok(value)
}

pub(super) fn spelled(line: &str, write: impl FnOnce(&mut String)) -> Result<(), LineError> {
    let mut again = String::with_capacity(line.len());
    write(&mut again);
    if again == line { Ok(()) } else { Err(LineError::Spelling) }
}

/// The forms of an enum: one table for writing and reading, so that a variant without a form does not compile.
///
/// `A, B => C { "word" Variant { fields } ... }`: A and B are written, C is read.
macro_rules! enum_form {
    ($($put:ty),+ => $take:ident $table:tt) => {
        $(enum_form! { @put $put, $table })+
        enum_form! { @take $take, $table }
    };
    (@put $type:ty, {
        $($word:literal $variant:ident $({ $($field:ident),+ })? $(( $($value:ident),+ ))?),+ $(,)?
    }) => {
        impl Put for $type {
            fn put(&self, line: &mut String) {
                match self {
                    $(Self::$variant $({ $($field),+ })? $(( $($value),+ ))? => {
                        word(line, $word);
                        $($($field.put(line);)+)?
                        $($($value.put(line);)+)?
                    })+
                }
            }
        }
    };
    (@take $type:ty, {
        $($word:literal $variant:ident $({ $($field:ident),+ })? $(( $($value:ident),+ ))?),+ $(,)?
    }) => {
        impl Take for $type {
            fn take(words: &mut Words<'_>) -> Result<Self, LineError> {
                match words.next()? {
                    $($word => Ok(Self::$variant
                        $({ $($field: Take::take(words)?),+ })?
                        $(( $({ let $value = Take::take(words)?; $value }),+ ))?),)+
                    _ => Err(words.wrong()),
                }
            }
            #[cfg(test)]
            fn any(g: &mut quickcheck::Gen) -> Self {
                let variants = [$($word),+];
                let word = *g.choose(&variants).unwrap();
                match word {
                    $($word => Self::$variant
                        $({ $($field: Take::any(g)),+ })?
                        $(( $({ let $value = Take::any(g); $value }),+ ))?,)+
                    _ => unreachable!(),
                }
            }
            #[cfg(test)]
            fn every(g: &mut quickcheck::Gen) -> Vec<Self> {
                let _ = &g;
                vec![$(Self::$variant
                    $({ $($field: Take::any(g)),+ })?
                    $(( $({ let $value = Take::any(g); $value }),+ ))?),+]
            }
        }
    };
}

/// The form of a struct: its fields in this order, none left out.
macro_rules! struct_form {
    ($type:ty { $($field:ident),+ $(,)? }) => {
        impl Put for $type {
            fn put(&self, line: &mut String) {
                let Self { $($field),+ } = self;
                $($field.put(line);)+
            }
        }
        impl Take for $type {
            fn take(words: &mut Words<'_>) -> Result<Self, LineError> {
                Ok(Self { $($field: Take::take(words)?),+ })
            }
            #[cfg(test)]
            fn any(g: &mut quickcheck::Gen) -> Self {
                Self { $($field: Take::any(g)),+ }
            }
        }
    };
}

pub(super) use {enum_form, struct_form};

macro_rules! number_form {
    ($($type:ty),+) => {
        $(impl Put for $type {
            fn put(&self, line: &mut String) {
                word(line, self);
            }
        }
        impl Take for $type {
            fn take(words: &mut Words<'_>) -> Result<Self, LineError> {
                words.parse()
            }
            #[cfg(test)]
            fn any(g: &mut quickcheck::Gen) -> Self {
                quickcheck::Arbitrary::arbitrary(g)
            }
        })+
    };
}

number_form!(u8, u16, u32, u64, usize, i32, i64);

/// Forms of types that stand for one other value.
macro_rules! same_form {
    ($($type:ty = $inner:ty, $out:expr, $in:expr;)+) => {
        $(impl Put for $type {
            fn put(&self, line: &mut String) {
                let out: fn(&$type) -> $inner = $out;
                out(self).put(line);
            }
        }
        impl Take for $type {
            fn take(words: &mut Words<'_>) -> Result<Self, LineError> {
                Ok(($in)(<$inner>::take(words)?))
            }
            #[cfg(test)]
            fn any(g: &mut quickcheck::Gen) -> Self {
                ($in)(<$inner>::any(g))
            }
        })+
    };
}

same_form! {
    SockId = u64, |id| id.number(), SockId::from_number;
    QueryId = u32, |id| id.number(), QueryId::from_number;
    ConnectId = u32, |id| id.number(), ConnectId;
    MeetingId = u32, |id| id.number(), MeetingId;
    PipeId = u64, |id| id.number(), PipeId::from_number;
    Instant = i64, |at| at.as_nanos(), Instant::from_nanos;
    WallTime = i64, |at| at.as_micros(), WallTime::from_micros;
    Box<str> = String, |text| String::from(&**text), String::into_boxed_str;
}

impl<T: Put + ?Sized> Put for &T {
    fn put(&self, line: &mut String) {
        (**self).put(line);
    }
}

impl<T: Put> Put for Box<T> {
    fn put(&self, line: &mut String) {
        (**self).put(line);
    }
}

impl<T: Take> Take for Box<T> {
    fn take(words: &mut Words<'_>) -> Result<Self, LineError> {
        T::take(words).map(Box::new)
    }
    #[cfg(test)]
    fn any(g: &mut quickcheck::Gen) -> Self {
        Box::new(T::any(g))
    }
}

impl<T: Put> Put for Arc<T> {
    fn put(&self, line: &mut String) {
        (**self).put(line);
    }
}

impl<T: Take> Take for Arc<T> {
    fn take(words: &mut Words<'_>) -> Result<Self, LineError> {
        T::take(words).map(Arc::new)
    }
    #[cfg(test)]
    fn any(g: &mut quickcheck::Gen) -> Self {
        Arc::new(T::any(g))
    }
}

impl Put for bool {
    fn put(&self, line: &mut String) {
        word(line, if *self { "yes" } else { "no" });
    }
}

impl Take for bool {
    fn take(words: &mut Words<'_>) -> Result<Self, LineError> {
        match words.next()? {
            "yes" => Ok(true),
            "no" => Ok(false),
            _ => Err(words.wrong()),
        }
    }
    #[cfg(test)]
    fn any(g: &mut quickcheck::Gen) -> Self {
        quickcheck::Arbitrary::arbitrary(g)
    }
}

impl Put for Duration {
    fn put(&self, line: &mut String) {
        word(line, self.as_nanos());
    }
}

impl Take for Duration {
    fn take(words: &mut Words<'_>) -> Result<Self, LineError> {
        const SECOND: u128 = 1_000_000_000;
        let nanos: u128 = words.parse()?;
        let seconds = u64::try_from(nanos / SECOND).map_err(|_| words.wrong())?;
        Ok(Duration::new(seconds, (nanos % SECOND) as u32))
    }
    #[cfg(test)]
    fn any(g: &mut quickcheck::Gen) -> Self {
        quickcheck::Arbitrary::arbitrary(g)
    }
}

impl Put for IpAddr {
    fn put(&self, line: &mut String) {
        word(line, self);
    }
}

impl Take for IpAddr {
    fn take(words: &mut Words<'_>) -> Result<Self, LineError> {
        words.parse()
    }
    #[cfg(test)]
    fn any(g: &mut quickcheck::Gen) -> Self {
        quickcheck::Arbitrary::arbitrary(g)
    }
}

impl Put for SocketAddr {
    fn put(&self, line: &mut String) {
        word(line, self);
        // The standard text has the scope of an IPv6 address but not its flow label.
        if let SocketAddr::V6(v6) = self
            && v6.flowinfo() != 0
        {
            let _ = write!(line, "~{}", v6.flowinfo());
        }
    }
}

impl Take for SocketAddr {
    fn take(words: &mut Words<'_>) -> Result<Self, LineError> {
        let text = words.next()?;
        let (address, flow) = text.split_once('~').map_or((text, None), |(a, flow)| (a, Some(flow)));
        let mut address: SocketAddr = address.parse().map_err(|_| words.wrong())?;
        match (&mut address, flow) {
            (_, None) => {}
            (SocketAddr::V6(v6), Some(flow)) => v6.set_flowinfo(flow.parse().map_err(|_| words.wrong())?),
            (SocketAddr::V4(_), Some(_)) => return Err(words.wrong()),
        }
        Ok(address)
    }
    #[cfg(test)]
    fn any(g: &mut quickcheck::Gen) -> Self {
        let mut address: SocketAddr = quickcheck::Arbitrary::arbitrary(g);
        if let SocketAddr::V6(v6) = &mut address {
            v6.set_scope_id(*g.choose(&[0, 1, u32::MAX]).unwrap());
            v6.set_flowinfo(*g.choose(&[0, 1, u32::MAX]).unwrap());
        }
        address
    }
}

impl Put for NodeId {
    fn put(&self, line: &mut String) {
        word(line, self);
    }
}

impl Take for NodeId {
    fn take(words: &mut Words<'_>) -> Result<Self, LineError> {
        words.parse()
    }
    #[cfg(test)]
    fn any(g: &mut quickcheck::Gen) -> Self {
        crate::SecretKey::from_bytes(Take::any(g)).node_id()
    }
}

impl Put for Name {
    fn put(&self, line: &mut String) {
        word(line, self.as_str());
    }
}

impl Take for Name {
    fn take(words: &mut Words<'_>) -> Result<Self, LineError> {
        words.parse()
    }
    #[cfg(test)]
    fn any(g: &mut quickcheck::Gen) -> Self {
        g.choose(&["a", "example", "my-host-2"]).unwrap().parse().unwrap()
    }
}

impl Put for Code {
    fn put(&self, line: &mut String) {
        word(line, self);
    }
}

impl Take for Code {
    fn take(words: &mut Words<'_>) -> Result<Self, LineError> {
        words.parse()
    }
    #[cfg(test)]
    fn any(g: &mut quickcheck::Gen) -> Self {
        g.choose(&["7-guitar-oxygen", "999-yo-yo-aardvark"]).unwrap().parse().unwrap()
    }
}

impl Put for PeerAddress {
    fn put(&self, line: &mut String) {
        word(line, self);
    }
}

impl Take for PeerAddress {
    fn take(words: &mut Words<'_>) -> Result<Self, LineError> {
        words.parse()
    }
    #[cfg(test)]
    fn any(g: &mut quickcheck::Gen) -> Self {
        let text = ["None-0-0-x", "0,1-[0,8.8.8.8,192.168.21.21,58959,3,2,0]-[1,::2,fe80::1,9,1,1,7]-0zZ"];
        g.choose(&text).unwrap().parse().unwrap()
    }
}

impl Put for [u8] {
    fn put(&self, line: &mut String) {
        if self.is_empty() {
            return word(line, '-');
        }
        word(line, "");
        HEXLOWER.encode_append(self, line);
    }
}

impl Put for Bytes {
    fn put(&self, line: &mut String) {
        (**self).put(line);
    }
}

impl Take for Bytes {
    fn take(words: &mut Words<'_>) -> Result<Self, LineError> {
        match words.next()? {
            "-" => Ok(Bytes::new()),
            hex => HEXLOWER.decode(hex.as_bytes()).map(Bytes::from).map_err(|_| words.wrong()),
        }
    }
    #[cfg(test)]
    fn any(g: &mut quickcheck::Gen) -> Self {
        Bytes::from(<Vec<u8> as quickcheck::Arbitrary>::arbitrary(g))
    }
}

impl Put for ProtocolTag {
    fn put(&self, line: &mut String) {
        self.as_bytes().put(line);
    }
}

impl Take for ProtocolTag {
    fn take(words: &mut Words<'_>) -> Result<Self, LineError> {
        ProtocolTag::new(&Bytes::take(words)?).ok_or_else(|| words.wrong())
    }
    #[cfg(test)]
    fn any(g: &mut quickcheck::Gen) -> Self {
        let tag = <Vec<u8> as quickcheck::Arbitrary>::arbitrary(g);
        ProtocolTag::new(&tag).unwrap_or(ProtocolTag::new(&[0; 64]).unwrap())
    }
}

impl Put for [u8; 32] {
    fn put(&self, line: &mut String) {
        self[..].put(line);
    }
}

impl Take for [u8; 32] {
    fn take(words: &mut Words<'_>) -> Result<Self, LineError> {
        (*Bytes::take(words)?).try_into().map_err(|_| words.wrong())
    }
    #[cfg(test)]
    fn any(g: &mut quickcheck::Gen) -> Self {
        core::array::from_fn(|_| quickcheck::Arbitrary::arbitrary(g))
    }
}

impl Put for String {
    fn put(&self, line: &mut String) {
        match self.as_str() {
            "" => return word(line, '%'),
            // A word of this alone is a value that is missing.
            "-" => return word(line, "%2d"),
            _ => word(line, ""),
        }
        for byte in self.bytes() {
            match byte {
                b' ' => line.push('+'),
                b'+' | b'%' => {
                    let _ = write!(line, "%{byte:02x}");
                }
                b if b.is_ascii_graphic() => line.push(char::from(b)),
                _ => {
                    let _ = write!(line, "%{byte:02x}");
                }
            }
        }
    }
}

impl Take for String {
    fn take(words: &mut Words<'_>) -> Result<Self, LineError> {
        let text = words.next()?;
        if text == "%" {
            return Ok(String::new());
        }
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        loop {
            rest = match rest {
                [] => break,
                [b'%', high, low, rest @ ..] => {
                    let byte = HEXLOWER.decode(&[*high, *low]).map_err(|_| words.wrong())?;
                    bytes.extend(byte);
                    rest
                }
                [b'+', rest @ ..] => {
                    bytes.push(b' ');
                    rest
                }
                [byte, rest @ ..] => {
                    bytes.push(*byte);
                    rest
                }
            };
        }
        String::from_utf8(bytes).map_err(|_| words.wrong())
    }
    #[cfg(test)]
    fn any(g: &mut quickcheck::Gen) -> Self {
        quickcheck::Arbitrary::arbitrary(g)
    }
}

impl<T: Put> Put for Option<T> {
    fn put(&self, line: &mut String) {
        match self {
            Some(value) => value.put(line),
            None => word(line, '-'),
        }
    }
}

impl<T: Take> Take for Option<T> {
    fn take(words: &mut Words<'_>) -> Result<Self, LineError> {
        let ahead = Words { rest: words.rest, at: words.at }.next()?;
        if ahead == "-" { words.next().map(|_| None) } else { T::take(words).map(Some) }
    }
    #[cfg(test)]
    fn any(g: &mut quickcheck::Gen) -> Self {
        <bool as Take>::any(g).then(|| T::any(g))
    }
}

impl<T: Put, E: Put> Put for Result<T, E> {
    fn put(&self, line: &mut String) {
        match self {
            Ok(value) => {
                word(line, "ok");
                value.put(line);
            }
            Err(why) => {
                word(line, "error");
                why.put(line);
            }
        }
    }
}

impl<T: Take, E: Take> Take for Result<T, E> {
    fn take(words: &mut Words<'_>) -> Result<Self, LineError> {
        match words.next()? {
            "ok" => T::take(words).map(Ok),
            "error" => E::take(words).map(Err),
            _ => Err(words.wrong()),
        }
    }
    #[cfg(test)]
    fn any(g: &mut quickcheck::Gen) -> Self {
        if <bool as Take>::any(g) { Ok(T::any(g)) } else { Err(E::any(g)) }
    }
}

/// Writes a list.
pub(super) fn put_all<'a, T: Put + 'a>(items: impl ExactSizeIterator<Item = &'a T>, line: &mut String) {
    items.len().put(line);
    items.for_each(|item| item.put(line));
}

/// Reads a list. Each item is a word at least, so that a length alone reserves nothing.
fn take_all<T: Take, L: Default + Extend<T>>(words: &mut Words<'_>) -> Result<L, LineError> {
    let len = usize::take(words)?;
    let mut all = L::default();
    for _ in 0..len {
        all.extend([T::take(words)?]);
    }
    Ok(all)
}

macro_rules! list_form {
    ($([$($bound:tt)*] $type:ty, $item:ty;)+) => {
        $(impl<$($bound)*> Put for $type
        where
            $item: Put,
        {
            fn put(&self, line: &mut String) {
                put_all(self.iter(), line);
            }
        }
        impl<$($bound)*> Take for $type
        where
            $item: Take,
        {
            fn take(words: &mut Words<'_>) -> Result<Self, LineError> {
                take_all(words)
            }
            #[cfg(test)]
            fn any(g: &mut quickcheck::Gen) -> Self {
                let len = *g.choose(&[0, 1, 2, 3]).unwrap();
                (0..len).map(|_| Take::any(g)).collect()
            }
        })+
    };
}

list_form! {
    [T] Vec<T>, T;
    [A: Array] SmallVec<A>, A::Item;
    [T: Ord] BTreeSet<T>, T;
}
