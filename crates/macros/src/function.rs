//! A function as the attributes see it: everything parsed but its body, which passes through untouched.

use proc_macro2::{Group, TokenStream};
use syn::parse::{Parse, ParseStream};
use syn::{Attribute, Error, Result, ReturnType, Signature, Token, Type, Visibility};

/// Attributes, signature and body of a function or method.
pub(crate) struct Function {
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) visibility: Visibility,
    pub(crate) signature: Signature,
    pub(crate) body: TokenStream,
}

// === impl Function ===

impl Function {
    /// Parses `item`, or says that `attribute` stands above the wrong thing.
    pub(crate) fn parse_for(attribute: &str, item: TokenStream) -> Result<Self> {
        let function: Self = syn::parse2(item).map_err(|error| {
            Error::new(
                error.span(),
                format!("#[{attribute}] goes above a function: {error}"),
            )
        })?;
        match &function.signature.constness {
            Some(token) => Err(Error::new_spanned(
                token,
                format!("#[{attribute}] cannot stand above a `const fn`: it needs the running process"),
            )),
            None => Ok(function),
        }
    }

    /// What the function returns.
    pub(crate) fn output(&self) -> Type {
        match &self.signature.output {
            ReturnType::Default => syn::parse_quote!(()),
            ReturnType::Type(_, output) => (**output).clone(),
        }
    }
}

impl Parse for Function {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let attributes = input.call(Attribute::parse_outer)?;
        let visibility = input.parse()?;
        let signature = input.parse()?;
        if input.peek(Token![;]) {
            return Err(input.error("the function has no body"));
        }
        let body: Group = input.parse()?;
        Ok(Self {
            attributes,
            visibility,
            signature,
            body: body.stream(),
        })
    }
}

/// Whether a word occurs anywhere in a type, such as `impl` or `Self`.
pub(crate) fn mentions(tokens: TokenStream, word: &str) -> bool {
    tokens.into_iter().any(|tree| match tree {
        proc_macro2::TokenTree::Ident(ident) => ident == word,
        proc_macro2::TokenTree::Group(group) => mentions(group.stream(), word),
        _ => false,
    })
}
