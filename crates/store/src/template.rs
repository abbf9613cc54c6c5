//! Texts with columns in braces, such as `ticks:{symbol}`.

use crate::error::{Error, Result};

/// A text with columns in braces. `{{` and `}}` stand for the braces themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    source: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Name(String),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// [`Error::Config`] on an open brace or an empty name.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '{' | '}' if rest.peek() == Some(&c) => {
                    rest.next();
                    literal.push(c);
                }
                '{' => {
                    let mut name = String::new();
                    loop {
                        match rest.next() {
                            Some('}') if !name.is_empty() => break,
                            Some(c) if c != '{' && c != '}' => name.push(c),
                            _ => return Err(broken(text)),
                        }
                    }
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::Name(name));
                }
                '}' => return Err(broken(text)),
                c => literal.push(c),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self {
            source: text.to_owned(),
            parts,
        })
    }

    /// Names in braces, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Name(name) => Some(name.as_str()),
            Part::Literal(_) => None,
        })
    }

    /// The text with each name replaced by what `write` appends for it.
    pub fn render(&self, mut write: impl FnMut(&str, &mut String)) -> String {
        let mut text = String::with_capacity(self.source.len() + 16);
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Name(name) => write(name, &mut text),
            }
        }
        text
    }

    /// What every filling begins with: the text before the first name.
    #[must_use]
    pub fn prefix(&self) -> &str {
        match self.parts.first() {
            Some(Part::Literal(literal)) => literal,
            _ => "",
        }
    }

    /// The template as it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }
}

fn broken(text: &str) -> Error {
    Error::Config {
        what: format!("template {text:?}"),
        problem: "a name in braces is missing or a brace stands alone; write {{ and }} for braces".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let rendered = Template::parse(text)
            .ok()
            .map(|template| template.render(|name, text| text.push_str(&name.to_uppercase())));
        assert_eq!(rendered.as_deref(), expected, "{text}");
    }

    #[test]
    fn names_are_replaced_and_braces_can_be_written() {
        check("ticks:{symbol}", Some("ticks:SYMBOL"));
        check("{a}{b}", Some("AB"));
        check("plain", Some("plain"));
        check("{{x}}{y}", Some("{x}Y"));
        check("{", None);
        check("{}", None);
        check("a}", None);
        check("{a{b}}", None);
    }

    #[test]
    fn fillings_share_a_prefix() {
        let check = |text: &str, expected| assert_eq!(Template::parse(text).unwrap().prefix(), expected);
        check("ticks:{symbol}", "ticks:");
        check("{{x}}{y}", "{x}");
        check("plain", "plain");
        check("{a}:b", "");
    }
}
