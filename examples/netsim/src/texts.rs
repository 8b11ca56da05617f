//! A protocol of one's own: texts, each with its length before it.

/// Returns a text as it goes over a pipe; of a long one the first 65,535 bytes.
pub fn framed(text: &[u8]) -> Vec<u8> {
    let text = &text[..text.len().min(usize::from(u16::MAX))];
    [&(text.len() as u16).to_be_bytes()[..], text].concat()
}

/// Takes the next text out of what has come, once it is whole.
pub fn next(came: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = came.first_chunk().map(|length| usize::from(u16::from_be_bytes(*length)))?;
    (came.len() >= 2 + length).then(|| came.drain(..2 + length).skip(2).collect())
}
