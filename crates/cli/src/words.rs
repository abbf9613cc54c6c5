//! Everything the binary says to people, in English and Chinese.

use std::fmt::Display;

/// A language of the house.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Lang {
    /// English.
    En,
    /// Chinese.
    Zh,
}

impl Lang {
    /// The language of a locale such as `zh_CN.UTF-8`; English for all that is not Chinese.
    pub(crate) fn of_locale(locale: &str) -> Self {
        if locale.to_ascii_lowercase().starts_with("zh") {
            Self::Zh
        } else {
            Self::En
        }
    }
}

macro_rules! catalogue {
    ($($id:ident: $en:literal $zh:literal;)+) => {
        /// A message, with `{name}` where a value goes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Say { $($id,)+ }

        impl Say {
            #[cfg(test)]
            const ALL: &'static [Self] = &[$(Self::$id,)+];

            const fn text(self, lang: Lang) -> &'static str {
                match (self, lang) {
                    $((Self::$id, Lang::En) => $en, (Self::$id, Lang::Zh) => $zh,)+
                }
            }
        }
    };
}

catalogue! {
    // Failures.
    CannotRead: "cannot read {file}: {cause}" "无法读取 {file}：{cause}";
    CannotListen: "cannot listen on {address}: {cause}. Choose another address with --listen, for example --listen 127.0.0.1:0 for a free port"
        "无法监听 {address}：{cause}。用 --listen 另选地址，例如 --listen 127.0.0.1:0 任取空闲端口";
    DemoNotLoopback: "demo lets anybody in without credentials, so it does not listen on {address}. Add --anyone if everybody who reaches that address may come in"
        "demo 不验证身份，因此不在 {address} 上监听。若能访问该地址的人都可进入，请加 --anyone";
    NotToml: "not valid TOML: {message}" "不是有效的 TOML：{message}";
    UnknownKey: "unknown setting {key}" "未知设置 {key}";
    UnknownKeyNear: "unknown setting {key}, did you mean {nearest}?" "未知设置 {key}，是否指 {nearest}？";
    BadValue: "{key} is {value}, allowed is {allowed}" "{key} 的值为 {value}，允许：{allowed}";
    MissingKey: "{key} is missing, allowed is {allowed}" "缺少 {key}，允许：{allowed}";
    NoVariable: "{key} names the environment variable {name}, which is not set" "{key} 所指的环境变量 {name} 未设置";
    NoFile: "{key} names the file {path}, which cannot be read" "{key} 所指的文件 {path} 无法读取";

    // Running.
    NobodyGetsIn: "nobody can come in: set [auth.jwt], [[auth.api_keys]] or auth.anonymous" "无人可进入：请设置 [auth.jwt]、[[auth.api_keys]] 或 auth.anonymous";
    Draining: "draining, at most {seconds} s; a second signal ends at once" "正在排空连接，最多 {seconds} 秒；再次发送信号立即结束";
    ServeTry: "Figures and routes: {url}/api/docs" "指标与接口：{url}/api/docs";
    ServeAdmin: "Administration: http://{address}/api/docs" "管理接口：http://{address}/api/docs";

    // Demo.
    DemoTitle: "A simulated trading day: {symbols} symbols, {minutes} from open to close." "模拟交易日：{symbols} 只代码，{minutes} 走完开盘到收盘。";
    DemoPage: "Open {url}/demo in a browser." "在浏览器打开 {url}/demo";
    DemoNode: "From Node (npm install socket.io-client):" "Node（npm install socket.io-client）：";
    DemoPython: "From Python (pip install \"python-socketio[client]\"):" "Python（pip install \"python-socketio[client]\"）：";
    DemoMore: "Also: rooms orders and chat, {url}/api/docs, {url}/metrics. Ctrl-C ends." "另有：房间 orders 与 chat，{url}/api/docs，{url}/metrics。Ctrl-C 结束。";
    Minutes: "{n} minutes" "{n} 分钟";
    Seconds: "{n} seconds" "{n} 秒";

    // Check.
    CheckFile: "Configuration: {file}, preset {preset}" "配置：{file}，规模 {preset}";
    CheckNoFile: "no file, defaults only" "无文件，仅默认值";
    CheckGood: "good" "正常";
    CheckNote: "note" "提示";
    CheckBad: "problem" "问题";
    CheckDone: "{problems} problems, {notes} notes" "{problems} 个问题，{notes} 条提示";
    SettingsGood: "all settings are in their ranges" "所有设置均在允许范围内";
    AccessGood: "roles, keys and tokens can be used" "角色、密钥与令牌规则可用";
    AccessNobody: "nobody can come in. Set [auth.jwt], [[auth.api_keys]] or auth.anonymous" "无人可进入。请设置 [auth.jwt]、[[auth.api_keys]] 或 auth.anonymous";
    AccessAnyone: "anybody can come in, and {address} is not loopback. Set auth.anonymous = false unless that is meant" "任何人可进入，且 {address} 不是回环地址。若非本意请设 auth.anonymous = false";
    OriginsAny: "origins has \"*\": pages of any site may connect, with the cookies of your users. Name the sites instead" "origins 含 \"*\"：任何网站的页面都可带用户 cookie 连接。请改为列出站点";
    PlainPublic: "{address} is not loopback and there is no [tls]: tokens travel in the clear unless a proxy in front ends TLS" "{address} 不是回环地址且没有 [tls]：除非前置代理终结 TLS，否则令牌明文传输";
    AdminPublic: "admin.listen {address} is not loopback and speaks plain HTTP. Put it on loopback or a private network" "admin.listen {address} 不是回环地址且为明文 HTTP。请放到回环或内网";
    TlsGood: "certificate and key can be read" "证书与私钥可读";
    TlsBad: "{file} cannot be read: {cause}" "{file} 无法读取：{cause}";
    ListenGood: "{address} is free" "{address} 可用";
    ListenBad: "{address} cannot be opened: {cause}. Another program, or this server already running, holds it" "{address} 无法打开：{cause}。可能被其他程序或已运行的本服务占用";
    FilesGood: "{limit} open files are enough for {connections} connections" "可打开文件 {limit}，足够 {connections} 个连接";
    FilesBad: "{limit} open files are too few for {connections} connections. Raise the hard limit: LimitNOFILE={wanted} in the unit, or ulimit -n" "可打开文件 {limit}，不足 {connections} 个连接。请提高硬限制：服务单元中 LimitNOFILE={wanted}，或 ulimit -n";
    FilesOnly: "connections are limited by {limit} open files only" "连接数仅受可打开文件 {limit} 限制";
    MemoryGood: "memory budget {budget}, accounts are full at {limit}" "内存预算 {budget}，记账上限 {limit}";
    MemoryBad: "memory budget {budget} is above the {host} that this machine or cgroup leaves. Lower memory.budget" "内存预算 {budget} 超过本机或 cgroup 可用的 {host}。请降低 memory.budget";
}

/// The message with its values.
pub(crate) fn say(lang: Lang, what: Say, values: &[(&str, &dyn Display)]) -> String {
    let mut text = what.text(lang).to_owned();
    for (name, value) in values {
        text = text.replace(&format!("{{{name}}}"), &value.to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn places(text: &str) -> BTreeSet<&str> {
        text.split('{')
            .skip(1)
            .filter_map(|rest| rest.split('}').next())
            .collect()
    }

    #[test]
    fn both_languages_have_the_same_places() {
        for what in Say::ALL {
            assert_eq!(
                places(what.text(Lang::En)),
                places(what.text(Lang::Zh)),
                "{what:?}"
            );
        }
    }

    #[test]
    fn locales_choose_the_language() {
        let check = |locale, lang| assert_eq!(Lang::of_locale(locale), lang, "{locale}");
        check("zh_CN.UTF-8", Lang::Zh);
        check("ZH", Lang::Zh);
        check("en_US.UTF-8", Lang::En);
        check("C", Lang::En);
        check("", Lang::En);
    }
}
