//! The attributes `#[profiled]` and `#[cached]`.
//!
//! Their output names `::tidegate_vitals` and `::tidegate_cache`; another path is given with `crate = path`. This crate
//! knows nothing else of those two, and imports neither.

mod arguments;
mod cached;
mod function;
mod profiled;

use proc_macro::TokenStream;

/// Records calls, time and allocated bytes of a function, while `tidegate_vitals::span` is enabled.
///
/// An async function is charged for each poll; what lies between two polls counts as awaiting. Arguments, all optional:
///
/// - `name = "text"`: the name to show instead of the function's path.
/// - `crate = path`: where `tidegate_vitals` is found.
///
/// A function that returns a future without being `async` is measured until it returns, not until the future ends.
#[proc_macro_attribute]
pub fn profiled(arguments: TokenStream, item: TokenStream) -> TokenStream {
    output(profiled::expand(arguments.into(), item.into()))
}

/// Keeps the results of a function, by its arguments, for a time and up to a number.
///
/// - `ttl = "5s"`: how long a result is good: a number with `ms`, `s`, `m`, `h` or `d`. Without it, until it is evicted.
/// - `capacity = 1000`: the most results; 1000 if not given.
/// - `key = "expression"`: what tells calls apart, instead of all arguments; a `String` made with `to_string`.
/// - `key_type = "type"`: the type of that expression, which is then taken as it is. It needs `Hash + Eq + Clone`.
/// - `name = "text"`: the name in the statistics; the function's path if not given.
/// - `cache_err`: keeps errors too. Otherwise only the `Ok` of a `Result` is kept.
/// - `crate = path`: where `tidegate_cache` is found.
///
/// A function `f` gets a neighbour `f_cache()`, which answers its `Memo`: statistics and clearing are there. Results
/// and arguments are cloned; borrowed arguments become part of the key in their owned form. Calls with the same key at
/// the same time wait for one of them; the body must not call the function with its own key. In an `impl` block only
/// methods with `self` can be cached, because the attribute does not see the type around an associated function.
#[proc_macro_attribute]
pub fn cached(arguments: TokenStream, item: TokenStream) -> TokenStream {
    output(cached::expand(arguments.into(), item.into()))
}

fn output(expanded: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    expanded.unwrap_or_else(|error| error.to_compile_error()).into()
}

#[cfg(test)]
mod tests {
    use super::{cached, profiled};

    type Expand =
        fn(proc_macro2::TokenStream, proc_macro2::TokenStream) -> syn::Result<proc_macro2::TokenStream>;

    fn check(expand: Expand, arguments: &str, item: &str, expected: &str) {
        let expanded = expand(arguments.parse().unwrap(), item.parse().unwrap());
        let message = expanded.err().map(|error| error.to_string());
        assert_eq!(message.as_deref(), Some(expected));
    }

    #[test]
    fn profiled_refuses_what_it_cannot_measure() {
        let check = |arguments, item, expected| check(profiled::expand, arguments, item, expected);
        check(
            "",
            "const fn three() -> u8 { 3 }",
            "#[profiled] cannot stand above a `const fn`: it needs the running process",
        );
        check(
            "",
            "struct S;",
            "#[profiled] goes above a function: expected `fn`",
        );
        check(
            "",
            "fn declared();",
            "#[profiled] goes above a function: the function has no body",
        );
        let expected = "unknown argument `ttl`: there are `name`, `crate`";
        check("ttl = \"5s\"", "fn f() {}", expected);
    }

    #[test]
    fn cached_refuses_what_it_cannot_keep() {
        let check = |arguments, item, expected| check(cached::expand, arguments, item, expected);
        check(
            "",
            "fn f<T: Clone>(x: T) -> T { x }",
            "#[cached] cannot stand above a generic function: one static cache cannot hold every type",
        );
        check(
            "",
            "fn f(&self) -> u8 { 0 }",
            "#[cached] above a method needs `key = \"…\"`: which parts of `self` tell results apart",
        );
        check(
            "",
            "fn f(x: &str) -> &str { x }",
            "#[cached] cannot keep a borrowed value: return an owned one",
        );
        check(
            "",
            "fn f() -> impl Iterator<Item = u8> { 0..3 }",
            "#[cached] cannot keep a value of type `impl`: a cached value needs a named type",
        );
        check(
            "key = \"self.0\"",
            "fn f(&self) -> Option<Self> { None }",
            "#[cached] cannot keep a value of type `Self`: name the type instead",
        );
        let expected = "#[cached] needs plain argument names, or `key = \"…\"`";
        check("", "fn f((a, b): (u8, u8)) -> u8 { a + b }", expected);
        let expected = "`key_type` names the type of `key`, which is not given";
        check("key_type = \"u8\"", "fn f(a: u8) -> u8 { a }", expected);
    }
}
