//! The syntax of Perl's Config::General 2.65, as IXP Manager's scripts read it (its options:
//! `-LowerCaseNames` and the defaults), into a tree that knows its line numbers.
//!
//! ```text
//! # a comment; \# is a literal one
//! <ixp>                            blocks nest; names are read in any case
//!     key = value                  or `key value`
//!     text = "  in quotes  "
//!     query = SELECT a \
//!             FROM b               a backslash at the end joins lines
//!     long <<END                   a here-document; the end's indentation is taken off
//!     anything
//!     END
//!     <sflow_agent 192.0.2.1>      a block with a label
//!     </sflow_agent>
//! </ixp>
//! /* and this */
//! <<include other.conf>>
//! ```
//!
//! A line is whatever the module takes it for: there are no bad lines, only blocks, comments and
//! here-documents without an end. Two things differ. An included file is looked for beside the
//! file that names it, for a daemon has no meaningful working directory. And where the module
//! silently loses the rest of the file (a comment or here-document without an end), it is an error.
//!
//! Never panics, and works within [`FILE_BYTES_MAX`], [`DEPTH_MAX`], [`ENTRIES_MAX`] and
//! [`INCLUDE_DEPTH_MAX`].

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nom::branch::alt;
use nom::bytes::complete::{tag, tag_no_case, take_till, take_till1, take_while, take_while1};
use nom::character::complete::char;
use nom::combinator::{opt, rest, value, verify};
use nom::sequence::{delimited, preceded, terminated};
use nom::{IResult, Parser as _};

/// Bytes of the file and of everything that it includes, at the most.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// Blocks inside one another, at the most.
pub const DEPTH_MAX: usize = 32;

/// Keys and blocks, at the most.
pub const ENTRIES_MAX: usize = 20_000;

/// Files that include one another, at the most.
pub const INCLUDE_DEPTH_MAX: usize = 8;

/// A line of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The file's name, as it was opened.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// A key or a block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The name in lower case.
    pub name: String,
    /// Where it starts.
    pub place: Place,
    /// What it holds.
    pub body: Body,
}

/// What a key or a block holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// The value of a key, without quotes and escapes; empty if there was none.
    Value {
        /// The text.
        text: String,
        /// The value was ended by a `#` without white space before it: what follows is a comment
        /// to Config::General, but may have been meant otherwise.
        cut: bool,
    },
    /// The contents of a block.
    Block {
        /// What follows the name, as in `<name label>`.
        label: Option<String>,
        /// The contents, in the order of the file; repeated keys are repeated here.
        entries: Vec<Entry>,
    },
}

/// The file, and what deserves a word to its owner.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tree {
    /// The contents, in the order of the file.
    pub entries: Vec<Entry>,
    /// Oddities that Config::General accepts.
    pub notices: Vec<String>,
}

/// The text is not a whole configuration.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{place}: {fault}")]
pub struct SyntaxError {
    /// Where.
    pub place: Place,
    /// What.
    pub fault: SyntaxFault,
}

/// What is wrong with the text.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SyntaxFault {
    /// A block without an end.
    #[error("<{0}> is never closed: expected </{0}>")]
    Unclosed(String),
    /// An end without a block.
    #[error("</{0}> closes nothing: expected <{0}> before it")]
    Unopened(String),
    /// A here-document without an end.
    #[error("the text after <<{0} never ends: expected a line with {0} alone")]
    HereDocument(String),
    /// A comment without an end.
    #[error("the comment never ends: expected */")]
    Comment,
    /// Beyond [`FILE_BYTES_MAX`].
    #[error("too long: expected at most {FILE_BYTES_MAX} bytes, included files and all")]
    TooLong,
    /// Beyond [`DEPTH_MAX`].
    #[error("too deep: expected at most {DEPTH_MAX} blocks inside one another")]
    TooDeep,
    /// Beyond [`ENTRIES_MAX`].
    #[error("too many keys: expected at most {ENTRIES_MAX}")]
    TooMany,
    /// Beyond [`INCLUDE_DEPTH_MAX`].
    #[error("<<include {0}>>: expected at most {INCLUDE_DEPTH_MAX} files inside one another")]
    IncludeDepth(String),
    /// An included file cannot be read.
    #[error("<<include {path}>>: {reason}")]
    Include {
        /// The file, as it was looked for.
        path: String,
        /// What the system says.
        reason: String,
    },
}

/// Parses `bytes`, the contents of the file `name`; `read` brings the files that it includes.
///
/// What is not UTF-8 (a comment in Latin-1, say) is replaced, and fails where it is used.
///
/// # Errors
///
/// The first fault, with its place.
pub fn parse(
    name: &str,
    bytes: &[u8],
    read: &mut dyn FnMut(&Path) -> io::Result<Vec<u8>>,
) -> Result<Tree, SyntaxError> {
    let mut parser =
        Parser { read, open: Vec::new(), tree: Tree::default(), bytes: 0, entries: 0, includes: 0 };
    parser.file(name, bytes)?;
    match parser.open.pop() {
        None => Ok(parser.tree),
        Some(Open { name, place, .. }) => {
            Err(SyntaxError { place, fault: SyntaxFault::Unclosed(name) })
        }
    }
}

/// A block whose end has not been seen.
struct Open {
    name: String,
    label: Option<String>,
    place: Place,
    entries: Vec<Entry>,
}

struct Parser<'a> {
    read: &'a mut dyn FnMut(&Path) -> io::Result<Vec<u8>>,
    open: Vec<Open>,
    tree: Tree,
    bytes: usize,
    entries: usize,
    includes: usize,
}

impl Parser<'_> {
    /// Reads the lines of one file. Blocks may start in one file and end in another; comments,
    /// here-documents and joined lines may not.
    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), SyntaxError> {
        let file: Arc<str> = name.into();
        let at = |line| Place { file: Arc::clone(&file), line };
        let fault = |line, fault| Err(SyntaxError { place: at(line), fault });

        self.bytes = self.bytes.saturating_add(bytes.len());
        if self.bytes > FILE_BYTES_MAX {
            return fault(1, SyntaxFault::TooLong);
        }
        let text = String::from_utf8_lossy(bytes);
        let mut lines = (1u32..).zip(text.trim_start_matches('\u{feff}').lines());
        let mut comment: Option<u32> = None;
        let mut joined: Option<(u32, String)> = None;
        while let Some((number, line)) = lines.next() {
            let line = without_c_comment(number, line, &mut comment);
            if comment.is_some() {
                continue;
            }
            let (line, cut) = without_comment(&line);

            if let Some(start) = line.strip_suffix('\\').filter(|start| !start.ends_with('\\')) {
                let (_, text) = joined.get_or_insert_with(|| (number, String::new()));
                text.push_str(start.trim_ascii_start());
                continue;
            }
            if let Some((start, mut text)) = joined.take() {
                text.push_str(line.trim_ascii_start());
                self.line(at(start), &text, cut)?;
                continue;
            }

            if let Ok((_, (key, end))) = here_document(line) {
                let mut body = Vec::new();
                let indentation = loop {
                    match lines.next() {
                        None => return fault(number, SyntaxFault::HereDocument(end.to_owned())),
                        Some((_, line)) => match line.trim_ascii_end().strip_suffix(end) {
                            Some(indentation) if indentation.trim_ascii().is_empty() => {
                                break indentation;
                            }
                            _ => body.push(line),
                        },
                    }
                };
                let body: Vec<&str> = body
                    .into_iter()
                    .map(|line| line.strip_prefix(indentation).unwrap_or(line))
                    .collect();
                self.value(at(number), key, body.join("\n").trim_ascii(), false)?;
            } else if let Ok((_, included)) = include(line) {
                self.include(&at(number), included)?;
            } else {
                self.line(at(number), line, cut)?;
            }
        }
        if let Some(number) = comment {
            return fault(number, SyntaxFault::Comment);
        }
        match joined {
            Some((start, text)) => self.line(at(start), &text, false),
            None => Ok(()),
        }
    }

    fn include(&mut self, place: &Place, included: &str) -> Result<(), SyntaxError> {
        let fault = |fault| Err(SyntaxError { place: place.clone(), fault });
        if self.includes >= INCLUDE_DEPTH_MAX {
            return fault(SyntaxFault::IncludeDepth(included.to_owned()));
        }
        let path: PathBuf =
            Path::new(&*place.file).parent().unwrap_or(Path::new("")).join(included);
        let path_text = path.display().to_string();
        match (self.read)(&path) {
            Ok(bytes) => {
                self.includes += 1;
                self.file(&path_text, &bytes)?;
                self.includes -= 1;
                Ok(())
            }
            Err(error) => {
                fault(SyntaxFault::Include { path: path_text, reason: error.to_string() })
            }
        }
    }

    /// A line without comments: a block's start or end, or a key.
    fn line(&mut self, place: Place, line: &str, cut: bool) -> Result<(), SyntaxError> {
        let line = line.trim_ascii();
        let tag = line.strip_prefix('<').and_then(|line| line.strip_suffix('>'));
        match tag {
            _ if line.is_empty() => Ok(()),
            Some(tag) if tag.len() > 1 && tag.starts_with('/') => self.close(&place, &tag[1..]),
            Some(tag) if !tag.is_empty() && !tag.starts_with('/') => {
                let (tag, empty) = match tag.strip_suffix('/') {
                    Some(tag) if !tag.is_empty() => (tag, true),
                    _ => (tag, false),
                };
                if self.open.len() >= DEPTH_MAX {
                    return Err(SyntaxError { place, fault: SyntaxFault::TooDeep });
                }
                let (name, label) = block_names(tag);
                let name = name.to_lowercase();
                let label = label.map(str::to_owned);
                self.open.push(Open { name, label, place: place.clone(), entries: Vec::new() });
                if empty { self.close(&place, tag) } else { Ok(()) }
            }
            _ => match key_value(line) {
                Ok((text, key)) => self.value(place, key, text, cut),
                // The grammar of a key and a value takes every line.
                Err(_) => Ok(()),
            },
        }
    }

    fn value(&mut self, place: Place, key: &str, text: &str, cut: bool) -> Result<(), SyntaxError> {
        let text = match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
            Some(inner) => inner,
            None => text,
        };
        let body = Body::Value { text: without_escapes(text), cut };
        self.entry(Entry { name: key.to_lowercase(), place, body })
    }

    /// Config::General does not compare the names: any end closes the innermost block.
    fn close(&mut self, place: &Place, name: &str) -> Result<(), SyntaxError> {
        let Some(open) = self.open.pop() else {
            let fault = SyntaxFault::Unopened(name.to_owned());
            return Err(SyntaxError { place: place.clone(), fault });
        };
        let (closed, _) = block_names(name);
        if closed.to_lowercase() != open.name {
            let line = open.place.line;
            let notice = format!("{place}: </{name}> closes <{}> of line {line}", open.name);
            self.tree.notices.push(notice);
        }
        let body = Body::Block { label: open.label, entries: open.entries };
        self.entry(Entry { name: open.name, place: open.place, body })
    }

    fn entry(&mut self, entry: Entry) -> Result<(), SyntaxError> {
        self.entries += 1;
        if self.entries > ENTRIES_MAX {
            return Err(SyntaxError { place: entry.place, fault: SyntaxFault::TooMany });
        }
        match self.open.last_mut() {
            Some(open) => open.entries.push(entry),
            None => self.tree.entries.push(entry),
        }
        Ok(())
    }
}

/// Takes C comments off a line, by the rules of the module: `/* */` within a line, from the first
/// to the last; else a comment starts at the start of a line only, and ends where a line says so.
fn without_c_comment<'a>(
    number: u32,
    line: &'a str,
    comment: &mut Option<u32>,
) -> std::borrow::Cow<'a, str> {
    let end = line.rfind("*/");
    match (line.find("/*"), end) {
        (Some(start), Some(end)) if start + 2 <= end => {
            let (before, after) = (line[..start].trim_ascii_end(), &line[end + 2..]);
            return [before, after.trim_ascii_start()].concat().into();
        }
        _ if line.trim_ascii_start().starts_with("/*") => *comment = Some(number),
        (_, Some(end)) if comment.is_some() => {
            *comment = None;
            return line[end + 2..].into();
        }
        _ => {}
    }
    line.into()
}

/// Takes the comment off a line: from the first `#` without a backslash before it, wherever it
/// is, as the module does. Says whether it cut into a word.
fn without_comment(line: &str) -> (&str, bool) {
    let hash = line
        .bytes()
        .enumerate()
        .find(|&(at, byte)| byte == b'#' && (at == 0 || line.as_bytes()[at - 1] != b'\\'));
    match hash {
        None => (line, false),
        Some((at, _)) => {
            let line = &line[..at];
            (line, line.bytes().next_back().is_some_and(|last| !last.is_ascii_whitespace()))
        }
    }
}

/// `\$`, `\\`, `\"` and `\#` stand for the second character.
fn without_escapes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let escaped = (character == '\\')
            .then(|| characters.next_if(|next| matches!(next, '$' | '\\' | '"' | '#')))
            .flatten();
        plain.push(escaped.unwrap_or(character));
    }
    plain
}

fn is_space(character: char) -> bool {
    character.is_ascii_whitespace()
}

fn space(input: &str) -> IResult<&str, &str> {
    take_while(is_space)(input)
}

fn quoted(input: &str) -> IResult<&str, &str> {
    delimited(char('"'), take_till1(|c| c == '"'), char('"')).parse(input)
}

/// `name`, `name label`, each perhaps in quotes.
fn block_names(tag: &str) -> (&str, Option<&str>) {
    let name = alt((quoted, take_till1(is_space)));
    let label = preceded(take_while1(is_space), alt((quoted, rest)));
    match (name, opt(label)).parse(tag) {
        Ok((_, (name, label))) => (name, label.map(str::trim_ascii).filter(|l| !l.is_empty())),
        Err(_) => (tag, None),
    }
}

/// `key = value` or `key value`; what remains is the value. Takes every line.
fn key_value(line: &str) -> IResult<&str, &str> {
    let equals = value((), (space, char('='), space));
    terminated(take_till(|c| is_space(c) || c == '='), alt((equals, value((), space)))).parse(line)
}

/// `key = <<END` or `key <<END`.
fn here_document(line: &str) -> IResult<&str, (&str, &str)> {
    let line = line.trim_ascii();
    let with_equals = terminated(take_till1(|c| c == '='), (char('='), space));
    let with_space = terminated(take_till1(is_space), take_while1(is_space));
    let end = preceded((tag("<<"), space), verify(rest, |end: &str| !end.is_empty()));
    let (remaining, (key, end)) = (alt((with_equals, with_space)), end).parse(line)?;
    Ok((remaining, (key.trim_ascii_end(), end)))
}

/// `<<include FILE>>`, perhaps in quotes.
fn include(line: &str) -> IResult<&str, &str> {
    let (path, _) = (tag_no_case("<<include"), take_while1(is_space)).parse(line.trim_ascii())?;
    let path = verify(rest, |path: &str| path.ends_with(">>") && path.len() > 2).parse(path)?.1;
    let path = path[..path.len() - 2].trim_ascii();
    let quoted = ['"', '\'']
        .iter()
        .find_map(|&quote| path.strip_prefix(quote).and_then(|path| path.strip_suffix(quote)));
    Ok(("", quoted.unwrap_or(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn no_files(_: &Path) -> io::Result<Vec<u8>> {
        Err(io::Error::other("no such file here"))
    }

    fn tree(text: &str) -> Tree {
        parse("t.conf", text.as_bytes(), &mut no_files).unwrap()
    }

    fn fault(text: &str) -> String {
        parse("t.conf", text.as_bytes(), &mut no_files).unwrap_err().to_string()
    }

    /// The tree on one line: `key=value`, `name(label){...}`.
    fn shown(entries: &[Entry]) -> String {
        let shown = entries.iter().map(|entry| match &entry.body {
            Body::Value { text, .. } => format!("{}={text}", entry.name),
            Body::Block { label: None, entries } => format!("{}{{{}}}", entry.name, shown(entries)),
            Body::Block { label: Some(label), entries } => {
                format!("{}({label}){{{}}}", entry.name, shown(entries))
            }
        });
        shown.collect::<Vec<_>>().join("; ")
    }

    /// The tree as text that reads back as the same tree.
    fn printed(entries: &[Entry], out: &mut String) {
        for Entry { name, body, .. } in entries {
            match body {
                Body::Value { text, .. } => {
                    let mut escaped = String::new();
                    for character in text.chars() {
                        if matches!(character, '$' | '\\' | '"' | '#') {
                            escaped.push('\\');
                        }
                        escaped.push(character);
                    }
                    out.push_str(&format!("{name} = \"{escaped}\"\n"));
                }
                Body::Block { label, entries } => {
                    let label = label.as_ref().map(|l| format!(" \"{l}\"")).unwrap_or_default();
                    out.push_str(&format!("<{name}{label}>\n"));
                    printed(entries, out);
                    out.push_str(&format!("</{name}>\n"));
                }
            }
        }
    }

    #[test]
    fn every_form_reads_as_in_config_general() {
        // Every case was read by Config::General 2.65 with -LowerCaseNames to the same result.
        for (text, expected) in [
            ("a = b", "a=b"),
            ("  A\t b c = d  ", "a=b c = d"),
            ("a=b=c", "a=b=c"),
            ("a", "a="),
            ("a =", "a="),
            ("a = b # c", "a=b"),
            ("a = b#c", "a=b"),
            ("a = b \\# c", "a=b # c"),
            ("# a = b\n\t#c = d\n\ne f", "e=f"),
            ("a = \"  b  \"", "a=  b  "),
            ("a = \"b\" c", "a=\"b\" c"),
            ("a = 'b'", "a='b'"),
            ("a = \\\"b\\\" \\$c \\\\d \\e", "a=\"b\" $c \\d \\e"),
            ("a = b \\\n   c \\\n\td\ne = f", "a=b c d; e=f"),
            ("a = b \\ # c\nd", "a=b \\; d="),
            ("a <<END\n b\n  # c\nEND\nd = e", "a=b\n  # c; d=e"),
            ("a = << END\n  b\n  END\nd = e", "a=b; d=e"),
            ("<X>\na = b\n</x>", "x{a=b}"),
            ("<x y>\n</x>\n<x  \"Y z\">\n</x>", "x(y){}; x(Y z){}"),
            ("<x>\n<y 1>\na b\n</y>\n</x>\n", "x{y(1){a=b}}"),
            ("<x/>\n<y z/>", "x{}; y(z){}"),
            ("a = 1\na = 2", "a=1; a=2"),
            ("/* a = b */\nc = d /* e */\n/* f\ng = h\n*/ i = j", "c=d; i=j"),
            ("a = b\r\n<x>\r\n</x>\r\n", "a=b; x{}"),
            ("a < b\n<c\nd>", "a=< b; <c=; d>="),
        ] {
            assert_eq!(shown(&tree(text).entries), expected, "{text:?}");
        }
    }

    #[test]
    fn lines_are_numbered_through_every_construct() {
        let text = "/* 1\n2 */\na <<E\n4\nE\nb = \\\n7\n\n<c>\n# 10\nd\n</c>";
        let tree = tree(text);
        let lines: Vec<_> = tree.entries.iter().map(|e| (e.name.as_str(), e.place.line)).collect();
        assert_eq!(lines, [("a", 3), ("b", 6), ("c", 9)]);
        let Body::Block { entries, .. } = &tree.entries[2].body else { panic!("a block") };
        assert_eq!(entries[0].place.to_string(), "t.conf:11");
    }

    #[test]
    fn what_never_ends_is_an_error_where_it_starts() {
        assert_eq!(fault("a\n<ixp>\nb"), "t.conf:2: <ixp> is never closed: expected </ixp>");
        assert_eq!(fault("a\n</x>"), "t.conf:2: </x> closes nothing: expected <x> before it");
        assert_eq!(
            fault("\na <<END\nb"),
            "t.conf:2: the text after <<END never ends: expected a line with END alone"
        );
        assert_eq!(fault("a\n/* b\nc"), "t.conf:2: the comment never ends: expected */");
    }

    #[test]
    fn other_names_at_the_end_are_accepted_with_a_word() {
        let tree = tree("<a>\n<b>\n</a>\n</A>");
        assert_eq!(shown(&tree.entries), "a{b{}}");
        assert_eq!(tree.notices, ["t.conf:3: </a> closes <b> of line 2"]);
    }

    #[test]
    fn a_hash_inside_a_word_is_remembered() {
        for (text, expected) in [("a = b#c", true), ("a = b #c", false), ("a = b\\#c", false)] {
            let tree = tree(text);
            let Body::Value { cut, .. } = tree.entries[0].body else { panic!("a value") };
            assert_eq!(cut, expected, "{text}");
        }
    }

    #[test]
    fn limits_hold() {
        let deep = |depth| "<a>\n".repeat(depth) + &"</a>\n".repeat(depth);
        tree(&deep(DEPTH_MAX));
        let expected = format!("t.conf:{}: too deep", DEPTH_MAX + 1);
        assert!(fault(&deep(DEPTH_MAX + 1)).starts_with(&expected));
        tree(&"a\n".repeat(ENTRIES_MAX));
        let expected = format!("t.conf:{}: too many keys", ENTRIES_MAX + 1);
        assert!(fault(&"a\n".repeat(ENTRIES_MAX + 1)).starts_with(&expected));
        tree(&"#".repeat(FILE_BYTES_MAX));
        assert!(fault(&"#".repeat(FILE_BYTES_MAX + 1)).starts_with("t.conf:1: too long"));
    }

    #[test]
    fn files_are_included_from_beside_the_one_that_names_them() {
        let mut read = |path: &Path| match path.to_str() {
            Some("/etc/x/b.conf") => Ok(b"b = 1\n<<include ../c.conf>>\n".to_vec()),
            Some("/etc/x/../c.conf") => Ok(b"c = 2\nc = 3".to_vec()),
            Some("/etc/x/self.conf") => Ok(b"<<include self.conf>>".to_vec()),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        let text = b"a\n<t>\n<<Include \"b.conf\">>\n</t>";
        let tree = parse("/etc/x/a.conf", text, &mut read).unwrap();
        assert_eq!(shown(&tree.entries), "a=; t{b=1; c=2; c=3}");
        let Body::Block { entries, .. } = &tree.entries[1].body else { panic!("a block") };
        assert_eq!(entries[2].place.to_string(), "/etc/x/../c.conf:2");

        let missing = parse("/etc/x/a.conf", b"\n<<include d.conf>>", &mut read).unwrap_err();
        assert!(missing.to_string().starts_with("/etc/x/a.conf:2: <<include /etc/x/d.conf>>: "));
        let cycle = parse("/etc/x/self.conf", b"<<include self.conf>>", &mut read).unwrap_err();
        assert!(cycle.to_string().contains("expected at most 8 files"), "{cycle}");
    }

    #[test]
    fn bytes_that_are_no_text_harm_nobody_else() {
        let tree = parse("t.conf", b"\xef\xbb\xbfa = 1 # caf\xe9\n", &mut no_files).unwrap();
        assert_eq!(shown(&tree.entries), "a=1");
    }

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let place = Place { file: "t.conf".into(), line: 0 };
        let of = move |name: String, body| Entry { name, place: place.clone(), body };
        let value_of = of.clone();
        // A comment or a continuation cannot be escaped, and a value has one line.
        let text = "[ -)+-~]{0,12}".prop_filter("no C comment", |text| !text.contains("/*"));
        let value = ("[a-z_]{1,8}", text)
            .prop_map(move |(name, text)| value_of(name, Body::Value { text, cut: false }));
        value
            .prop_recursive(4, 40, 6, move |inner| {
                let of = of.clone();
                let label = proptest::option::of("[a-z0-9.:]{1,10}");
                ("[a-z_]{1,8}", label, proptest::collection::vec(inner, 0..6)).prop_map(
                    move |(name, label, entries)| of(name, Body::Block { label, entries }),
                )
            })
            .prop_map(|entry| vec![entry])
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse("t.conf", &bytes, &mut no_files);
        }

        #[test]
        fn arbitrary_syntax_never_panics(
            parts in proptest::collection::vec(
                proptest::sample::select(vec![
                    "<", ">", "</", "/>", "<<", ">>", "include", " ", "\n", "\\", "\\\n", "#",
                    "/*", "*/", "\"", "'", "=", "a", "END", "ixp", "\r", "\u{e9}", "\u{feff}",
                ]),
                0..60,
            ),
        ) {
            let _ = parse("t.conf", parts.concat().as_bytes(), &mut no_files);
        }

        #[test]
        fn what_is_printed_parses_back(entries in entries()) {
            let mut text = String::new();
            printed(&entries, &mut text);
            let tree = parse("t.conf", text.as_bytes(), &mut no_files).unwrap();
            prop_assert_eq!(shown(&tree.entries), shown(&entries), "{}", text);
        }
    }
}
