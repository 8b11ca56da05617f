//! XML from devices: walked through once by a guard before the parser sees it.

use roxmltree::{Document, Node, ParsingOptions};

/// Deepest nesting of elements; an IGD's description has 9.
const MAX_DEPTH: usize = 24;
/// Most attributes in a tag: the parser compares each with each.
const MAX_ATTRIBUTES: usize = 16;
/// Most namespaces declared in all: the parser copies those in scope for each element that declares another, which
/// took 0.5 s of 53 KB (measured).
const MAX_NAMESPACES: usize = 64;
/// Most nodes, texts included.
const MAX_NODES: u32 = 8192;

/// Reason that bytes are no document for us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum XmlError {
    /// A document type: entities could be declared in it.
    DocumentType,
    TooDeep,
    TooManyAttributes,
    TooManyNamespaces,
    Malformed,
}

/// Reads a document. The reader of the bytes caps its length.
pub(super) fn parse(bytes: &[u8]) -> Result<Document<'_>, XmlError> {
    let text = str::from_utf8(bytes).map_err(|_| XmlError::Malformed)?;
    // Some devices count a final zero.
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    guard(text.as_bytes())?;
    let options = ParsingOptions { nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).map_err(|_| XmlError::Malformed)
}

/// The text of the first element of this name below `node`, whatever its namespace.
pub(super) fn text<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    let named = node.descendants().find(|n| n.tag_name().name() == name)?;
    Some(named.text().unwrap_or_default().trim())
}

/// Depth, attributes and namespaces, in one pass.
fn guard(text: &[u8]) -> Result<(), XmlError> {
    let (mut at, mut depth, mut namespaces) = (0, 0_usize, 0);
    while let Some(found) = text[at..].iter().position(|b| *b == b'<') {
        at += found;
        let rest = &text[at..];
        let skip = if rest.starts_with(b"<!--") {
            past(rest, b"-->")
        } else if rest.starts_with(b"<![CDATA[") {
            past(rest, b"]]>")
        } else if rest.starts_with(b"<!") {
            return Err(XmlError::DocumentType);
        } else if rest.starts_with(b"<?") {
            past(rest, b"?>")
        } else {
            let tag = &rest[..tag_length(rest)?];
            if tag.starts_with(b"</") {
                depth = depth.checked_sub(1).ok_or(XmlError::Malformed)?;
            } else if !tag.ends_with(b"/>") {
                depth += 1;
            }
            if depth > MAX_DEPTH {
                return Err(XmlError::TooDeep);
            }
            namespaces += tag.windows(5).filter(|w| w == b"xmlns").count();
            if namespaces > MAX_NAMESPACES {
                return Err(XmlError::TooManyNamespaces);
            }
            Some(tag.len())
        };
        at += skip.ok_or(XmlError::Malformed)?;
    }
    Ok(())
}

fn past(text: &[u8], end: &[u8]) -> Option<usize> {
    text.windows(end.len()).position(|w| w == end).map(|at| at + end.len())
}

/// Length of a tag with its brackets; a `>` in quotes does not end it.
fn tag_length(tag: &[u8]) -> Result<usize, XmlError> {
    let (mut quote, mut attributes) = (None, 0);
    for (at, byte) in tag.iter().enumerate() {
        match (quote, byte) {
            (Some(open), _) if open == *byte => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(*byte),
            (None, b'=') => attributes += 1,
            (None, b'>') => return Ok(at + 1),
            (None, _) => {}
        }
        if attributes > MAX_ATTRIBUTES {
            return Err(XmlError::TooManyAttributes);
        }
    }
    Err(XmlError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_read_whatever_their_namespaces() {
        let text =
            b"<?xml version='1.0'?><!-- > --><a xmlns='x' b='>'><c:d xmlns:c='y'> one </c:d><e/></a>\0\n";
        let document = parse(text).unwrap();
        let root = document.root_element();
        assert_eq!(
            (super::text(root, "d"), super::text(root, "e"), super::text(root, "f")),
            (Some("one"), Some(""), None)
        );
    }

    #[test]
    fn bombs_are_refused() {
        let laughs = "<!DOCTYPE a [<!ENTITY b \"ha\"><!ENTITY c \"&b;&b;\">]><a>&c;</a>";
        let deep = "<a>".repeat(25);
        let attributes: String = (0..17).map(|n| format!(" a{n}='x'")).collect();
        let spaces = format!("<a>{}</a>", "<b xmlns:c='d'/>".repeat(65));
        let wide = format!("<a>{}</a>", "<b/>".repeat(8192));
        for (text, error) in [
            (laughs, XmlError::DocumentType),
            ("<!DOCTYPE a SYSTEM 'http://192.168.1.1/'><a/>", XmlError::DocumentType),
            (&deep, XmlError::TooDeep),
            (&format!("<a{attributes}/>"), XmlError::TooManyAttributes),
            (&spaces, XmlError::TooManyNamespaces),
            (&wide, XmlError::Malformed),
            ("<a>&b;</a>", XmlError::Malformed),
            ("</a>", XmlError::Malformed),
            ("<a b='", XmlError::Malformed),
            ("<!-- ", XmlError::Malformed),
            ("<a><b></a></b>", XmlError::Malformed),
            ("", XmlError::Malformed),
        ] {
            assert_eq!(parse(text.as_bytes()).err(), Some(error), "{}", &text[..text.len().min(40)]);
        }
        assert_eq!(parse(b"<a>\xff</a>").err(), Some(XmlError::Malformed));
    }
}
