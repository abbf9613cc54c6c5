//! The arguments of both attributes: `word` or `word = value`, each at most once.

use std::time::Duration;

use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Error, Ident, LitInt, LitStr, Path, Result, Token};

/// What may be given; an attribute refuses the words that are not its own.
#[derive(Default)]
pub(crate) struct Arguments {
    pub(crate) name: Option<LitStr>,
    pub(crate) krate: Option<Path>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) capacity: Option<usize>,
    pub(crate) key: Option<syn::Expr>,
    pub(crate) key_type: Option<syn::Type>,
    pub(crate) cache_err: bool,
}

/// One argument, its value not yet looked at.
struct Argument {
    word: Ident,
    value: Option<Value>,
}

enum Value {
    Text(LitStr),
    Number(LitInt),
    Path(Path),
}

// === impl Arguments ===

impl Arguments {
    /// Parses `tokens`; only `words` are allowed.
    pub(crate) fn parse(tokens: proc_macro2::TokenStream, words: &[&str]) -> Result<Self> {
        let list = syn::parse::Parser::parse2(Punctuated::<Argument, Token![,]>::parse_terminated, tokens)?;
        let (mut all, mut seen) = (Self::default(), Vec::new());
        for argument in list {
            let word = argument.word.to_string();
            if !words.contains(&word.as_str()) {
                let known = words.join("`, `");
                return Err(Error::new(
                    argument.word.span(),
                    format!("unknown argument `{word}`: there are `{known}`"),
                ));
            }
            if seen.contains(&word) {
                return Err(Error::new(
                    argument.word.span(),
                    format!("`{word}` is given twice"),
                ));
            }
            all.set(&word, &argument)?;
            seen.push(word);
        }
        Ok(all)
    }

    fn set(&mut self, word: &str, argument: &Argument) -> Result<()> {
        match word {
            "name" => self.name = Some(argument.text()?),
            "crate" => self.krate = Some(argument.path()?),
            "ttl" => self.ttl = Some(duration(&argument.text()?)?),
            "capacity" => self.capacity = Some(argument.capacity()?),
            "key" => self.key = Some(argument.text()?.parse()?),
            "key_type" => self.key_type = Some(argument.text()?.parse()?),
            _ => self.cache_err = argument.flag()?,
        }
        Ok(())
    }
}

// === impl Argument ===

impl Parse for Argument {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        // `crate` is a keyword, which an ordinary identifier is not.
        let word = input.call(Ident::parse_any)?;
        let value = match input.parse::<Option<Token![=]>>()? {
            None => None,
            Some(_) if input.peek(LitStr) => Some(Value::Text(input.parse()?)),
            Some(_) if input.peek(LitInt) => Some(Value::Number(input.parse()?)),
            Some(_) => Some(Value::Path(input.call(Path::parse_mod_style)?)),
        };
        Ok(Self { word, value })
    }
}

impl Argument {
    fn text(&self) -> Result<LitStr> {
        match &self.value {
            Some(Value::Text(text)) => Ok(text.clone()),
            _ => Err(self.wrong("a text in quotes")),
        }
    }

    fn path(&self) -> Result<Path> {
        match &self.value {
            Some(Value::Path(path)) => Ok(path.clone()),
            Some(Value::Text(text)) => text.parse_with(Path::parse_mod_style),
            _ => Err(self.wrong("a path")),
        }
    }

    fn capacity(&self) -> Result<usize> {
        let number = match &self.value {
            Some(Value::Number(number)) => number.base10_parse()?,
            _ => 0,
        };
        if number == 0 {
            return Err(self.wrong("a number from 1"));
        }
        Ok(number)
    }

    fn flag(&self) -> Result<bool> {
        match self.value {
            None => Ok(true),
            Some(_) => Err(Error::new(
                self.word.span(),
                format!("`{}` takes no value", self.word),
            )),
        }
    }

    fn wrong(&self, wanted: &str) -> Error {
        let word = &self.word;
        Error::new(word.span(), format!("`{word}` needs {wanted}: `{word} = …`"))
    }
}

/// `250ms`, `5s`, `10m`, `1h`, `7d`.
fn duration(text: &LitStr) -> Result<Duration> {
    let value = text.value();
    let value = value.trim();
    let (number, unit) = value.split_at(value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len()));
    let unit_ms = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" | "min" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    let number: Option<u64> = number.parse().ok();
    let ms = number
        .zip(unit_ms)
        .and_then(|(number, unit_ms): (u64, u64)| number.checked_mul(unit_ms));
    match ms {
        Some(ms) if ms > 0 => Ok(Duration::from_millis(ms)),
        _ => Err(Error::new(
            text.span(),
            format!("`{value}` is no duration: a number from 1 with ms, s, m, h or d, as in \"5s\""),
        )),
    }
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::*;

    const WORDS: [&str; 7] = ["name", "crate", "ttl", "capacity", "key", "key_type", "cache_err"];

    fn check_error(tokens: proc_macro2::TokenStream, expected: &str) {
        let error = Arguments::parse(tokens, &WORDS)
            .err()
            .map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some(expected));
    }

    #[test]
    fn every_word_is_understood() {
        let tokens = quote!(
            name = "n",
            crate = ::a::b,
            ttl = "5s",
            capacity = 1_000,
            key = "a + 1",
            key_type = "u64",
            cache_err
        );
        let all = Arguments::parse(tokens, &WORDS).unwrap();
        assert_eq!(all.name.unwrap().value(), "n");
        assert_eq!(all.krate.unwrap().segments.len(), 2);
        assert_eq!(
            (all.ttl, all.capacity),
            (Some(Duration::from_secs(5)), Some(1000))
        );
        assert!(all.key.is_some() && all.key_type.is_some() && all.cache_err);
    }

    #[test]
    fn mistakes_are_named() {
        check_error(
            quote!(nmae = "n"),
            "unknown argument `nmae`: there are `name`, `crate`, `ttl`, `capacity`, `key`, `key_type`, `cache_err`",
        );
        check_error(quote!(name = "n", name = "m"), "`name` is given twice");
        check_error(quote!(name = 3), "`name` needs a text in quotes: `name = …`");
        check_error(
            quote!(capacity = 0),
            "`capacity` needs a number from 1: `capacity = …`",
        );
        check_error(quote!(cache_err = "yes"), "`cache_err` takes no value");
        for wrong in [
            "5",
            "s",
            "5 parsecs",
            "0s",
            "99999999999999999999s",
            "300000000000000d",
        ] {
            check_error(
                quote!(ttl = #wrong),
                &format!("`{wrong}` is no duration: a number from 1 with ms, s, m, h or d, as in \"5s\""),
            );
        }
    }

    #[test]
    fn durations() {
        for (text, ms) in [
            ("250ms", 250),
            ("5s", 5_000),
            ("10m", 600_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
        ] {
            let all = Arguments::parse(quote!(ttl = #text), &WORDS).unwrap();
            assert_eq!(all.ttl, Some(Duration::from_millis(ms)), "{text}");
        }
    }
}
