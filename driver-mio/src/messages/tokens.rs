//! Assignment of tokens to pipes.

use std::ops::Range;

use mio::Token;

/// A pipe's name, or a TCP listener's; never given twice by one [`Pipes`](super::Pipes).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PipeId(pub(super) u64);

/// The tokens that the user granted. The first is the look-ups'.
#[derive(Debug)]
pub(super) struct Tokens {
    range: Range<usize>,
    places: Vec<Option<PipeId>>,
    free: Vec<usize>,
    next: u64,
}

/// Owner of a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Whose {
    Pipe(PipeId),
    Names,
    /// A token of this range that no pipe has now: its pipe was closed while its event was under way.
    Nobodys,
    Users,
}

impl Tokens {
    pub(super) fn new(range: Range<usize>) -> Self {
        Tokens { range, places: Vec::new(), free: Vec::new(), next: 0 }
    }

    pub(super) fn names(&self) -> Token {
        Token(self.range.start)
    }

    pub(super) fn are_left(&self) -> bool {
        !self.free.is_empty() || self.places.len() + 1 < self.range.len()
    }

    /// A new pipe's name and token; `None` if there are no more tokens.
    pub(super) fn take(&mut self) -> Option<(PipeId, Token)> {
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.are_left() => {
                self.places.push(None);
                self.places.len() - 1
            }
            None => return None,
        };
        let id = PipeId(self.next);
        self.next += 1;
        self.places[place] = Some(id);
        Some((id, Token(self.range.start + 1 + place)))
    }

    pub(super) fn give_back(&mut self, Token(token): Token) {
        let place = token - self.range.start - 1;
        self.places[place] = None;
        self.free.push(place);
    }

    pub(super) fn whose(&self, Token(token): Token) -> Whose {
        match token.checked_sub(self.range.start) {
            Some(0) if !self.range.is_empty() => Whose::Names,
            Some(n) if token < self.range.end => match self.places.get(n - 1) {
                Some(Some(id)) => Whose::Pipe(*id),
                _ => Whose::Nobodys,
            },
            _ => Whose::Users,
        }
    }
}
