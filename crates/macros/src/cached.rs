//! `#[cached]`: a static memo beside the function, and the body as what fills it.

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote};
use syn::{Error, FnArg, GenericArgument, Pat, Path, PathArguments, Result, Type, parse_quote};

use crate::arguments::Arguments;
use crate::function::{Function, mentions};

const WORDS: [&str; 7] = ["ttl", "capacity", "key", "key_type", "name", "cache_err", "crate"];
const CAPACITY: usize = 1_000;

pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let arguments = Arguments::parse(arguments, &WORDS)?;
    let function = Function::parse_for("cached", item)?;
    check(&function, &arguments)?;
    let cache: Path = arguments
        .krate
        .clone()
        .unwrap_or_else(|| parse_quote!(::tidegate_cache));
    let key = key(&function, &arguments)?;
    let value = Value::of(&function, &arguments);
    let accessor = accessor(&function, &arguments, &cache, &key.kind, &value.kind);
    let call = call(&function, &key.value, value.is_fallible);
    let Function {
        attributes,
        visibility,
        signature,
        ..
    } = &function;
    Ok(quote! {
        #accessor

        #(#attributes)*
        #visibility #signature {
            #call
        }
    })
}

/// What tells calls apart: its type, and the expression that makes it.
struct Key {
    kind: TokenStream,
    value: TokenStream,
}

/// What is kept: the type, and whether an `Err` is let through instead.
struct Value {
    kind: TokenStream,
    is_fallible: bool,
}

fn check(function: &Function, arguments: &Arguments) -> Result<()> {
    let signature = &function.signature;
    let own = |param: &syn::GenericParam| !matches!(param, syn::GenericParam::Lifetime(_));
    if let Some(param) = signature.generics.params.iter().find(|param| own(param)) {
        let message =
            "#[cached] cannot stand above a generic function: one static cache cannot hold every type";
        return Err(Error::new_spanned(param, message));
    }
    if let Some(receiver) = signature.receiver()
        && arguments.key.is_none()
    {
        let message =
            "#[cached] above a method needs `key = \"…\"`: which parts of `self` tell results apart";
        return Err(Error::new_spanned(receiver, message));
    }
    if arguments.key_type.is_some() && arguments.key.is_none() {
        let message = "`key_type` names the type of `key`, which is not given";
        return Err(Error::new_spanned(&signature.ident, message));
    }
    let output = function.output();
    for (word, why) in [
        ("Self", "name the type instead"),
        ("impl", "a cached value needs a named type"),
    ] {
        if mentions(output.to_token_stream(), word) {
            let message = format!("#[cached] cannot keep a value of type `{word}`: {why}");
            return Err(Error::new_spanned(&output, message));
        }
    }
    match &output {
        Type::Reference(reference) if reference.lifetime.as_ref().is_none_or(|l| l.ident != "static") => {
            let message = "#[cached] cannot keep a borrowed value: return an owned one";
            Err(Error::new_spanned(&output, message))
        }
        _ => Ok(()),
    }
}

// === The key ===

fn key(function: &Function, arguments: &Arguments) -> Result<Key> {
    if let Some(expression) = &arguments.key {
        return Ok(match &arguments.key_type {
            Some(kind) => Key {
                kind: kind.to_token_stream(),
                value: quote!(#expression),
            },
            None => Key {
                kind: quote!(::std::string::String),
                value: quote!(::std::string::ToString::to_string(&(#expression))),
            },
        });
    }
    let (mut kinds, mut values) = (Vec::new(), Vec::new());
    for argument in &function.signature.inputs {
        let FnArg::Typed(argument) = argument else {
            continue; // A receiver without a key was refused.
        };
        let Pat::Ident(name) = &*argument.pat else {
            let message = "#[cached] needs plain argument names, or `key = \"…\"`";
            return Err(Error::new_spanned(&argument.pat, message));
        };
        let name = &name.ident;
        match &*argument.ty {
            Type::Reference(reference) => {
                let target = &reference.elem;
                kinds.push(quote!(<#target as ::std::borrow::ToOwned>::Owned));
                values.push(quote!(::std::borrow::ToOwned::to_owned(#name)));
            }
            kind => {
                kinds.push(kind.to_token_stream());
                values.push(quote!(::core::clone::Clone::clone(&#name)));
            }
        }
    }
    Ok(Key {
        kind: quote!((#(#kinds,)*)),
        value: quote!((#(#values,)*)),
    })
}

// === The value ===

impl Value {
    fn of(function: &Function, arguments: &Arguments) -> Self {
        let output = function.output();
        match result_of(&output).filter(|_| !arguments.cache_err) {
            Some(kept) => Self {
                kind: kept.to_token_stream(),
                is_fallible: true,
            },
            None => Self {
                kind: output.to_token_stream(),
                is_fallible: false,
            },
        }
    }
}

/// `T` of `Result<T, …>`, under any path that ends in `Result`.
fn result_of(output: &Type) -> Option<&Type> {
    let Type::Path(path) = output else {
        return None;
    };
    let last = path.path.segments.last().filter(|last| last.ident == "Result")?;
    let PathArguments::AngleBracketed(generics) = &last.arguments else {
        return None;
    };
    match generics.args.first()? {
        GenericArgument::Type(kept) => Some(kept),
        _ => None,
    }
}

// === The output ===

fn accessor(
    function: &Function,
    arguments: &Arguments,
    cache: &Path,
    key: &TokenStream,
    value: &TokenStream,
) -> TokenStream {
    let ident = &function.signature.ident;
    let accessor = accessor_ident(function);
    let visibility = &function.visibility;
    let conditions = function.attributes.iter().filter(|a| a.path().is_ident("cfg"));
    let name = match &arguments.name {
        Some(name) => quote!(#name),
        None => quote!(::core::concat!(
            ::core::module_path!(),
            "::",
            ::core::stringify!(#ident)
        )),
    };
    let capacity = arguments.capacity.unwrap_or(CAPACITY);
    let ttl = match arguments.ttl {
        Some(ttl) => {
            let ms = ttl.as_millis() as u64;
            quote!(::core::option::Option::Some(::core::time::Duration::from_millis(#ms)))
        }
        None => quote!(::core::option::Option::None),
    };
    let about = format!("The cache behind [`{ident}`]: its statistics, and how to clear it.");
    quote! {
        #(#conditions)*
        #[doc = #about]
        #visibility fn #accessor() -> &'static #cache::Memo<#key, #value> {
            static __MEMO: ::std::sync::LazyLock<#cache::Memo<#key, #value>> = ::std::sync::LazyLock::new(|| {
                #cache::Memo::new(#name, #cache::MemoConfig { capacity: #capacity, ttl: #ttl })
            });
            &__MEMO
        }
    }
}

fn accessor_ident(function: &Function) -> syn::Ident {
    format_ident!("{}_cache", function.signature.ident)
}

fn call(function: &Function, key: &TokenStream, is_fallible: bool) -> TokenStream {
    let accessor = accessor_ident(function);
    // Beside a method the accessor is an associated function.
    let accessor = match function.signature.receiver() {
        Some(_) => quote!(Self::#accessor),
        None => accessor.to_token_stream(),
    };
    let body = &function.body;
    let output = function.output();
    let hint = quote! {
        if let ::core::option::Option::Some(__hint) = ::core::option::Option::None::<#output> {
            return __hint;
        }
    };
    let is_async = function.signature.asyncness.is_some();
    let method = match (is_async, is_fallible) {
        (false, false) => quote!(get_or_insert_with),
        (false, true) => quote!(try_get_or_insert_with),
        (true, false) => quote!(get_or_insert_async),
        (true, true) => quote!(try_get_or_insert_async),
    };
    // The key comes first, because the body takes the arguments.
    if is_async {
        quote!(let __key = #key; #accessor().#method(&__key, async move { #hint #body }).await)
    } else {
        quote!(let __key = #key; #accessor().#method(&__key, move || -> #output { #body }))
    }
}
