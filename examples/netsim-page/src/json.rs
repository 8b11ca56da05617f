//! JSON, written only.

use core::fmt::Write;

/// A value as its text.
#[derive(Clone, Debug)]
pub(crate) struct Json(String);

impl Json {
    pub(crate) fn text(self) -> String {
        self.0
    }

    pub(crate) fn array(values: impl IntoIterator<Item = Json>) -> Json {
        let values: Vec<String> = values.into_iter().map(Json::text).collect();
        Json(format!("[{}]", values.join(",")))
    }

    /// An object; names are written as they are.
    pub(crate) fn object<const N: usize>(fields: [(&str, Json); N]) -> Json {
        let fields = fields.map(|(name, value)| format!("\"{name}\":{}", value.0));
        Json(format!("{{{}}}", fields.join(",")))
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Json {
        let mut out = String::from("\"");
        for letter in text.chars() {
            match letter {
                '"' | '\\' => out.extend(['\\', letter]),
                letter if letter < ' ' => {
                    // Writing to a String does not fail.
                    let _ = write!(out, "\\u{:04x}", u32::from(letter));
                }
                letter => out.push(letter),
            }
        }
        out.push('"');
        Json(out)
    }
}

impl From<String> for Json {
    fn from(text: String) -> Json {
        text.as_str().into()
    }
}

impl From<i64> for Json {
    fn from(number: i64) -> Json {
        Json(number.to_string())
    }
}

impl From<bool> for Json {
    fn from(truth: bool) -> Json {
        Json(truth.to_string())
    }
}

impl<T: Into<Json>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Json {
        value.map_or(Json("null".into()), Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped() {
        let json = Json::object([
            ("a", Json::array(["\"\\\n".into(), Json::from(None::<i64>)])),
            ("b", Json::from(Some(true))),
        ]);
        assert_eq!(json.text(), r#"{"a":["\"\\\u000a",null],"b":true}"#);
    }
}
