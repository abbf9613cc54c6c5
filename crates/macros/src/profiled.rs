//! `#[profiled]`: a static site in front of the body, and a span or a charged future around it.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Path, Result, parse_quote};

use crate::arguments::Arguments;
use crate::function::{Function, mentions};

pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let arguments = Arguments::parse(arguments, &["name", "crate"])?;
    let function = Function::parse_for("profiled", item)?;
    let vitals = arguments
        .krate
        .clone()
        .unwrap_or_else(|| parse_quote!(::tidegate_vitals));
    let site = site(&arguments, &vitals);
    let body = if function.signature.asyncness.is_some() {
        async_body(&function, &vitals)
    } else {
        let body = &function.body;
        quote!(let _span = __SITE.enter(); #body)
    };
    let Function {
        attributes,
        visibility,
        signature,
        ..
    } = &function;
    Ok(quote! {
        #(#attributes)*
        #visibility #signature {
            #site
            #body
        }
    })
}

/// The static of the function. Its name is asked of the compiler, which alone knows the type of a method.
fn site(arguments: &Arguments, vitals: &Path) -> TokenStream {
    let name = match &arguments.name {
        Some(name) => quote!(#name),
        None => quote!({
            fn here() {}
            ::core::any::type_name_of_val(&here)
        }),
    };
    quote! {
        static __SITE: #vitals::span::Site = #vitals::span::Site::new(|| #name, ::core::file!(), ::core::line!());
    }
}

fn async_body(function: &Function, vitals: &Path) -> TokenStream {
    let body = &function.body;
    let output = function.output();
    // Tells the compiler the type of the block, which an `async fn` knows and an `async` block must guess.
    // `impl Trait` cannot be named there; such a body has to be clear by itself.
    let hint = (!mentions(output.to_token_stream(), "impl")).then(|| {
        quote_spanned! {output.span()=>
            if let ::core::option::Option::Some(__hint) = ::core::option::Option::None::<#output> {
                return __hint;
            }
        }
    });
    quote! {
        #vitals::span::polled(&__SITE, async move { #hint #body }).await
    }
}
