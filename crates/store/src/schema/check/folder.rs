//! The folder of the spool, and what SQLite cannot do.

use std::path::Path;

use crate::{
    database::ServerInfo,
    feed::Feed,
    schema::check::{Finding, Words},
};

/// What SQLite does not have, in both languages.
const SQLITE_LACKS: [(&str, &str); 6] = [
    ("replicas and promotion", "副本与主备切换"),
    ("the pipeline for short statements", "短语句管道"),
    ("COPY", "COPY 批量写入"),
    ("partitions and TimescaleDB", "分区与 TimescaleDB"),
    ("the index advisor", "索引顾问"),
    ("several nodes on one database", "多个节点共用一个数据库"),
];

/// Whether rows acknowledged as spooled would survive.
#[cfg(feature = "spool")]
pub(super) fn check(folder: &Path) -> Vec<Finding> {
    use tidegate_seglog::disk::Disk;

    // The folder is made at the first start; until then its nearest parent tells.
    let there = folder.ancestors().find(|path| path.exists());
    let disk = there.map(Disk::of);
    let subject = folder.display().to_string();
    vec![match disk {
        Some(Ok(Disk::Memory)) => Finding::error(
            "spool_folder",
            subject,
            Words::new(
                "lies in memory (tmpfs): spooled rows would not survive a restart of the machine",
                "位于内存（tmpfs）：机器重启后暂存的数据会丢失",
            ),
        )
        .so("Give a folder on a disk.", "请指定磁盘上的目录。"),
        Some(Ok(Disk::Overlay)) => Finding::warning(
            "spool_folder",
            subject,
            Words::new(
                "lies in a container's own layer: spooled rows end with the container",
                "位于容器的可写层：暂存的数据会随容器消失",
            ),
        )
        .so("Mount a volume there.", "请在此挂载数据卷。"),
        Some(Ok(Disk::Network)) => Finding::warning(
            "spool_folder",
            subject,
            Words::new(
                "lies on a network share, whose fsync and locks depend on its server",
                "位于网络共享上，其 fsync 与锁取决于对端服务器",
            ),
        )
        .so("Give a folder on a local disk.", "请指定本地磁盘上的目录。"),
        Some(Ok(Disk::Ordinary)) => Finding::good(
            "spool_folder",
            subject,
            Words::new("lies on a disk", "位于磁盘上"),
        ),
        Some(Err(error)) => Finding::error(
            "spool_folder",
            subject,
            Words::new(format!("cannot be read: {error}"), format!("无法读取：{error}")),
        ),
        None => Finding::error(
            "spool_folder",
            subject,
            Words::new("no part of its path exists", "路径不存在"),
        ),
    }]
}

/// Without a spool there is no folder.
#[cfg(not(feature = "spool"))]
pub(super) fn check(_: &Path) -> Vec<Finding> {
    vec![]
}

pub(super) fn check_sqlite(info: &ServerInfo, feeds: &[Feed]) -> Vec<Finding> {
    let version = Words::new(
        format!("SQLite {} is used", info.version),
        format!("使用 SQLite {}", info.version),
    );
    let list = |pick: fn(&(&'static str, &'static str)) -> &'static str, comma: &str| {
        SQLITE_LACKS.iter().map(pick).collect::<Vec<_>>().join(comma)
    };
    let lacks = Words::new(
        format!("SQLite does not have: {}", list(|words| words.0, ", ")),
        format!("SQLite 不支持：{}", list(|words| words.1, "、")),
    );
    let mut findings = vec![
        Finding::good("server_version", &info.host, version),
        Finding::note("backend", &info.host, lacks).so(
            "Use PostgreSQL where one of these is needed.",
            "如需其中任一功能，请使用 PostgreSQL。",
        ),
    ];
    let parted = feeds.iter().filter(|feed| feed.partition.is_some());
    findings.extend(parted.map(|feed| {
        let what = Words::new(
            "partitions are left out on SQLite: `retain` deletes rows in small pieces",
            "SQLite 上不做分区：`retain` 会分批删除数据",
        );
        Finding::note("partitions", &feed.name, what)
    }));
    if info.is_on_tmpfs == Some(true) {
        let what = Words::new(
            "its file lies in memory (tmpfs): a restart of the machine loses every row",
            "数据文件位于内存（tmpfs）：机器重启后全部数据丢失",
        );
        findings.push(
            Finding::error("tmpfs", &info.host, what).so("Move the file to a disk.", "请将文件移到磁盘上。"),
        );
    }
    findings
}
