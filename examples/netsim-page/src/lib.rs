//! The book's playground: two dials through two chains of NATs, told as JSON.
//!
//! A query says what is wished ([`Wish`]), as in the page's address, and [`run`] answers with everything that happened. In WebAssembly
//! there is one buffer for both: [`room`] makes it, the page writes its query there, and [`answer`] puts the JSON in its place.

mod json;
mod story;
mod wish;

use std::sync::{Mutex, MutexGuard, PoisonError};

use p2pd_netsim::nat::PRESETS;

use json::Json;
pub use wish::Wish;

/// Most bytes of a query. It comes in a link, which strangers write.
const MOST: usize = 2_000;

/// Returns the run that a query asks for, as JSON; a query that is none gives an object with `error`.
pub fn run(query: &str) -> String {
    match query.parse::<Wish>() {
        Ok(wish) => story::tell(&wish).text(),
        Err(error) => Json::object([("error", Json::from(error))]).text(),
    }
}

/// Returns the NAT presets, as JSON: name, devices that have it, and the source of the row.
pub fn presets() -> String {
    Json::array(
        PRESETS
            .iter()
            .map(|preset| Json::array([preset.name, preset.what, preset.confidence].map(Json::from))),
    )
    .text()
}

static BUFFER: Mutex<Vec<u8>> = Mutex::new(Vec::new());

fn buffer() -> MutexGuard<'static, Vec<u8>> {
    BUFFER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes room for a query of so many bytes, 2,000 at most, and returns where.
#[unsafe(no_mangle)]
pub extern "C" fn room(length: usize) -> *mut u8 {
    let mut buffer = buffer();
    *buffer = vec![0; length.min(MOST)];
    buffer.as_mut_ptr()
}

/// Puts the answer to the query in its place, or the presets if it is empty. Returns the length of the answer, in bytes.
#[unsafe(no_mangle)]
pub extern "C" fn answer() -> usize {
    let mut buffer = buffer();
    let query = String::from_utf8_lossy(&buffer).into_owned();
    *buffer = if query.is_empty() { presets() } else { run(&query) }.into_bytes();
    buffer.len()
}

/// Returns where the answer is, until the next query.
#[unsafe(no_mangle)]
pub extern "C" fn place() -> *const u8 {
    buffer().as_ptr()
}
