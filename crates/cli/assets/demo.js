// The demo page: a standard Socket.IO client that joins rooms and shows what comes.

const WORDS = {
  en: {
    title: "A simulated trading day, live over Socket.IO",
    cut: "Cut the connection", other: "中文",
    rate: "messages a second", latency: "from trade to page, stored", roundtrip: "round trip", total: "messages so far",
    transport: "transport", recovered: "cuts recovered",
    board: "Prices", add: "Add", symbolHint: "600519",
    orders: "Orders", symbol: "symbol", side: "side", limit: "limit", filled: "filled", status: "status",
    chat: "Chat", send: "Send", nameHint: "Name", textHint: "Say something to everybody here",
    people: (n) => `${n} here`, empty: "Nothing has been said yet.",
    footer: "Prices, names and orders are invented. Every browser gets the newest price of a symbol, even a slow one.",
    connecting: "connecting", connected: "connected", disconnected: "disconnected",
    yes: (n) => `${n} of ${n}`, first: "–", partly: (n, all) => `${n} of ${all}`,
    day: (n) => `day ${n}`,
    open: "Opening", morning: "Morning", lunch: "Lunch break", afternoon: "Afternoon", close: "Closing",
    buy: "buy", sell: "sell", new: "new", partial: "partial", done: "filled", cancelled: "cancelled",
    sales: "Orders of four stores", previous: "Newer", next: "Older", everyStore: "All stores", allStores: "All",
    date: "date", store: "store", channel: "channel", product: "product", category: "category", scene: "scene",
    period: "time", quantity: "pieces", amount: "amount", nOrders: (n) => `${n} orders`,
    volume: "vol", refused: (why) => `not sent: ${why}`, remove: "Remove",
  },
  zh: {
    title: "模拟交易日，经 Socket.IO 实时推送",
    cut: "切断连接", other: "English",
    rate: "每秒消息", latency: "成交到页面（含入库）", roundtrip: "往返", total: "累计消息",
    transport: "传输方式", recovered: "断线已恢复",
    board: "行情", add: "添加", symbolHint: "600519",
    orders: "委托", symbol: "代码", side: "方向", limit: "限价", filled: "成交", status: "状态",
    chat: "聊天", send: "发送", nameHint: "名字", textHint: "对大家说点什么",
    people: (n) => `${n} 人在场`, empty: "还没有人发言。",
    footer: "价格、名称与委托均为虚构。再慢的浏览器也总能拿到最新价。",
    connecting: "连接中", connected: "已连接", disconnected: "已断开",
    yes: (n) => `${n} / ${n}`, first: "–", partly: (n, all) => `${n} / ${all}`,
    day: (n) => `第 ${n} 天`,
    open: "开盘", morning: "上午", lunch: "午休", afternoon: "下午", close: "收盘",
    buy: "买入", sell: "卖出", new: "已报", partial: "部分成交", done: "全部成交", cancelled: "已撤单",
    sales: "四家门店的订单", previous: "较新", next: "较早", everyStore: "全部门店", allStores: "合计",
    date: "日期", store: "门店", channel: "渠道", product: "商品", category: "品类", scene: "场景",
    period: "时段", quantity: "件数", amount: "金额", nOrders: (n) => `${n} 单`,
    volume: "量", refused: (why) => `未发送：${why}`, remove: "移除",
  },
};

const N_CARDS = 24;
const N_ORDERS = 40;
const N_MESSAGES = 60;
const N_POINTS = 60;
const POINT_EVERY_MS = 500;
const PAINT_EVERY_MS = 100;
const OPENS = 570, CLOSES = 900;

const $ = (id) => document.getElementById(id);
const stored = (key, otherwise) => { try { return localStorage.getItem(key) ?? otherwise; } catch { return otherwise; } };
const store = (key, value) => { try { localStorage.setItem(key, value); } catch { /* A private window keeps nothing. */ } };

let lang = stored("lang", navigator.language?.toLowerCase().startsWith("zh") ? "zh" : "en");
let words = WORDS[lang] ?? WORDS.en;
let market = null;
let people = null;

const calm = matchMedia("(prefers-reduced-motion: reduce)");
const names = new Map();
const cards = new Map();
const orders = new Map();
const delays = [];
const recovery = { tried: 0, succeeded: 0 };
const counted = { total: 0, second: 0 };

/* ---- words ---- */

function speak() {
  words = WORDS[lang] ?? WORDS.en;
  document.documentElement.lang = lang === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-say]")) element.textContent = words[element.dataset.say];
  $("language").textContent = words.other;
  $("symbol").placeholder = words.symbolHint;
  $("name").placeholder = words.nameHint;
  $("text").placeholder = words.textHint;
  showState();
  showRecovery();
  showMarket();
  showPeople();
  showOrders();
  showTotals();
  for (const card of cards.values()) card.title();
  if (!$("messages").querySelector("li:not(.empty)")) emptyChat();
}

const called = (symbol) => {
  const listed = names.get(symbol);
  return listed ? (lang === "zh" ? listed.name_zh : listed.name) : symbol;
};

/* ---- connection ---- */

const socket = io();

function showState() {
  const state = socket.connected ? "connected" : socket.active ? "connecting" : "disconnected";
  $("state").dataset.state = state;
  $("state").textContent = words[state];
  $("transport").textContent = socket.connected ? socket.io.engine.transport.name : "–";
}

function showRecovery() {
  const { tried, succeeded } = recovery;
  $("recovered").textContent = tried === 0 ? words.first : tried === succeeded ? words.yes(tried) : words.partly(succeeded, tried);
}

let seen = false;
socket.on("connect", () => {
  if (seen) {
    recovery.tried += 1;
    if (socket.recovered) recovery.succeeded += 1;
  }
  // A recovered session is still in its rooms; a fresh one joins them again.
  if (!socket.recovered) join();
  seen = true;
  showState();
  showRecovery();
  socket.io.engine.once("upgrade", showState);
});
socket.on("disconnect", showState);
socket.io.on("reconnect_attempt", showState);

function join() {
  $("messages").replaceChildren();
  emptyChat();
  socket.emit("join", ["market", "orders", "chat", ...[...cards.keys()].map((symbol) => `ticks:${symbol}`)], () => ask());
}

$("cut").addEventListener("click", () => socket.io.engine.close());

/* ---- figures ---- */

socket.onAny((event, data) => {
  counted.total += 1;
  counted.second += 1;
  if (event === "price_update") delays.push(Date.now() - Date.parse(data.ts));
});

setInterval(() => {
  $("rate").textContent = counted.second.toLocaleString(lang);
  $("total").textContent = counted.total.toLocaleString(lang);
  counted.second = 0;
  delays.sort((a, b) => a - b);
  if (delays.length > 0) $("latency").textContent = `${Math.max(0, delays[delays.length >> 1])} ms`;
  delays.length = 0;
}, 1000);

/** The members of the chat; the answer also tells the round trip. */
function ask() {
  if (!socket.connected) return;
  const asked = performance.now();
  socket.emit("presence", "chat", (answer) => {
    $("roundtrip").textContent = `${(performance.now() - asked).toFixed(1)} ms`;
    if (answer?.ok) people = answer.count;
    showPeople();
  });
}
setInterval(ask, 5000);

function showPeople() {
  $("people").textContent = people === null ? "" : words.people(people);
}

/* ---- the day ---- */

socket.on("market", (bell) => { market = bell; showMarket(); });

function showMarket() {
  if (!market) return;
  const [hour, minute] = market.clock.split(":").map(Number);
  $("clock").textContent = market.clock;
  $("phase").textContent = words[market.phase];
  $("day").textContent = words.day(market.day);
  $("progress").style.width = `${Math.min(100, (hour * 60 + minute - OPENS) / (CLOSES - OPENS) * 100)}%`;
}

/* ---- prices ---- */

class Card {
  constructor(symbol) {
    this.symbol = symbol;
    this.points = [];
    this.pointAt = 0;
    this.tick = null;
    this.shown = null;
    const element = document.createElement("article");
    element.className = "card";
    element.innerHTML = `<i class="light"></i><div class="top"><span class="name"></span><span class="code"></span></div>
      <div class="price">–</div><svg viewBox="0 0 100 30" preserveAspectRatio="none" aria-hidden="true"><polyline></polyline></svg>
      <div class="bottom"><span class="change"></span><span class="volume"></span></div><button type="button" class="close">×</button>`;
    this.element = element;
    this.part = (name) => element.querySelector(name);
    this.part(".code").textContent = symbol;
    this.part(".close").addEventListener("click", () => remove(symbol));
    this.title();
    $("cards").append(element);
  }

  title() {
    this.part(".name").textContent = called(this.symbol);
    this.part(".close").ariaLabel = words.remove;
  }

  show(now) {
    const { tick, shown } = this;
    if (!tick || tick === shown) return;
    this.shown = tick;
    const trend = tick.change >= 0 ? "up" : "down";
    this.part(".price").textContent = tick.price.toFixed(2);
    this.part(".price").className = `price ${trend}`;
    this.part(".change").textContent = `${tick.change >= 0 ? "+" : ""}${tick.change.toFixed(2)} %`;
    this.part(".change").className = `change ${trend}`;
    this.part(".volume").textContent = `${words.volume} ${short(tick.total)}`;
    if (shown && shown.price !== tick.price) this.flash(tick.price > shown.price ? "up" : "down");
    if (now - this.pointAt >= POINT_EVERY_MS) this.draw(now, trend);
  }

  flash(kind) {
    if (calm.matches) return;
    const light = this.part(".light");
    light.className = `light ${kind}`;
    light.animate([{ opacity: 0.16 }, { opacity: 0 }], { duration: 450, easing: "ease-out" });
  }

  draw(now, trend) {
    this.pointAt = now;
    this.points.push(this.tick.price);
    if (this.points.length > N_POINTS) this.points.shift();
    const low = Math.min(...this.points), range = Math.max(...this.points) - low || 1;
    const step = 100 / Math.max(1, this.points.length - 1);
    const line = this.points.map((price, i) => `${(i * step).toFixed(1)},${(28 - (price - low) / range * 26).toFixed(1)}`);
    this.part("polyline").setAttribute("points", line.join(" "));
    this.part("svg").setAttribute("class", trend);
  }
}

function short(number) {
  for (const [size, unit] of [[1e9, "B"], [1e6, "M"], [1e3, "K"]]) {
    if (number >= size) return (number / size).toFixed(1) + unit;
  }
  return String(number);
}

socket.on("price_update", (tick) => {
  const card = cards.get(tick.symbol);
  if (card) card.tick = tick;
});

let paintedAt = 0;

/** Ten times a second is as much as an eye follows; the rest of the time belongs to what comes in. */
function paint(now) {
  requestAnimationFrame(paint);
  if (now - paintedAt < PAINT_EVERY_MS) return;
  paintedAt = now;
  for (const card of cards.values()) card.show(now);
  if (ordersChanged) showOrders();
}

function add(symbol) {
  if (cards.has(symbol) || !names.has(symbol)) return;
  cards.set(symbol, new Card(symbol));
  if (socket.connected) socket.emit("join", `ticks:${symbol}`);
}

function remove(symbol) {
  cards.get(symbol)?.element.remove();
  cards.delete(symbol);
  socket.emit("leave", `ticks:${symbol}`);
}

$("add").addEventListener("submit", (event) => {
  event.preventDefault();
  add($("symbol").value.trim());
  $("symbol").value = "";
});

/* ---- orders ---- */

let ordersChanged = false;
socket.on("order_update", (order) => {
  orders.delete(order.id);
  orders.set(order.id, order);
  if (orders.size > N_ORDERS) orders.delete(orders.keys().next().value);
  ordersChanged = true;
});

function showOrders() {
  ordersChanged = false;
  const rows = [...orders.values()].reverse().map((order) => {
    const row = document.createElement("tr");
    const status = order.status === "filled" ? "done" : order.status;
    const values = [order.id, order.symbol, words[order.side], order.price.toFixed(2), `${order.filled}/${order.quantity}`, words[status]];
    for (const value of values) row.insertCell().textContent = value;
    row.cells[2].className = order.side === "buy" ? "up" : "down";
    row.cells[5].className = `status-${order.status}`;
    return row;
  });
  $("orders").replaceChildren(...rows);
}

/* ---- chat ---- */

function emptyChat() {
  const item = document.createElement("li");
  item.className = "empty";
  item.textContent = words.empty;
  $("messages").replaceChildren(item);
}

function line(who, text, ts) {
  const list = $("messages");
  list.querySelector(".empty")?.remove();
  const item = document.createElement("li");
  const name = document.createElement("b");
  name.textContent = who;
  item.append(name, text);
  if (ts) {
    const time = document.createElement("time");
    time.textContent = new Date(ts).toLocaleTimeString(lang, { hour: "2-digit", minute: "2-digit" });
    item.append(time);
  }
  list.append(item);
  while (list.childElementCount > N_MESSAGES) list.firstElementChild.remove();
  list.scrollTop = list.scrollHeight;
}

socket.on("chat", (said) => line(String(said?.name ?? "?"), String(said?.text ?? ""), Number(said?.ts) || 0));

$("name").value = stored("name", `Guest ${100 + Math.floor(Math.random() * 900)}`);
$("name").addEventListener("change", () => store("name", $("name").value));
$("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  const data = { name: $("name").value.trim() || "Guest", text, ts: Date.now() };
  socket.emit("publish", { room: "chat", event: "chat", data }, (answer) => {
    if (!answer?.ok) line("Tidegate", words.refused(answer?.error?.message ?? "?"));
  });
  $("text").value = "";
});

/* ---- the orders table: pages by cursor, totals from the roll-up ---- */

const PAGE_ROWS = 12;
const TOTALS_EVERY_MS = 2000;
const COLUMNS = ["id", "date", "store", "channel", "product", "category_l1", "scene", "time_period", "quantity", "amount"];
const sales = { cursors: [null], next: null, store: "", totals: [], busy: false };

async function askQuery(name, params) {
  const answer = await (await fetch(`/api/query/${name}?${new URLSearchParams(params)}`)).json();
  if (!answer.ok) throw new Error(answer.error.message);
  return answer;
}

/** Shows the page that the last cursor begins; a cursor knows only the way on, so the way back is remembered. */
async function showSales() {
  if (sales.busy) return;
  sales.busy = true;
  try {
    const after = sales.cursors.at(-1);
    const params = { limit: PAGE_ROWS, ...(sales.store && { store: sales.store }), ...(after && { after }) };
    const page = await askQuery(sales.store ? "orders_of_store" : "orders", params);
    sales.next = page.next;
    $("sales").replaceChildren(...page.rows.map(saleRow));
    $("page").textContent = sales.cursors.length;
    $("previous").disabled = sales.cursors.length === 1;
    $("next").disabled = page.next === null;
  } catch (error) {
    $("page").textContent = error.message;
  } finally {
    sales.busy = false;
  }
}

function saleRow(order) {
  const row = document.createElement("tr");
  for (const column of COLUMNS) row.insertCell().textContent = order[column];
  for (const cell of [row.cells[8], row.cells[9]]) cell.className = "number";
  return row;
}

/** Sums that the server keeps while it stores; asked for until nothing changes any more. */
async function refreshTotals() {
  const before = JSON.stringify(sales.totals);
  sales.totals = (await askQuery("order_totals", {})).rows;
  const changed = JSON.stringify(sales.totals) !== before;
  showTotals();
  if (changed && sales.cursors.length === 1) showSales();
  if (changed || sales.totals.length === 0) setTimeout(() => refreshTotals().catch(() => {}), TOTALS_EVERY_MS);
}

function showTotals() {
  const number = (value) => Number(value).toLocaleString(lang);
  const money = (value) => Number(value).toLocaleString(lang, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  const line = (name, rows, amount, kind) => {
    const element = document.createElement("div");
    element.className = kind;
    for (const text of [name, words.nOrders(number(rows)), money(amount)]) {
      element.append(Object.assign(document.createElement("span"), { textContent: text }));
    }
    return element;
  };
  const sum = (column) => sales.totals.reduce((all, one) => all + Number(one[column]), 0);
  $("totals").replaceChildren(
    ...sales.totals.map((one) => line(one.store, one.n_rows, one.amount_sum, "one")),
    line(words.allStores, sum("n_rows"), sum("amount_sum"), "all"),
  );
  const chosen = sales.store;
  $("store").replaceChildren(new Option(words.everyStore, ""), ...sales.totals.map((one) => new Option(one.store, one.store)));
  $("store").value = chosen;
}

function turn(cursors) {
  sales.cursors = cursors;
  showSales();
}

$("next").addEventListener("click", () => sales.next && turn([...sales.cursors, sales.next]));
$("previous").addEventListener("click", () => sales.cursors.length > 1 && turn(sales.cursors.slice(0, -1)));
$("store").addEventListener("change", () => {
  sales.store = $("store").value;
  turn([null]);
});

/* ---- start ---- */

$("language").addEventListener("click", () => {
  lang = lang === "zh" ? "en" : "zh";
  store("lang", lang);
  speak();
});

const listed = await (await fetch("/demo/symbols.json")).json();
for (const one of listed) names.set(one.symbol, one);
$("symbols").append(...listed.map((one) => new Option(`${one.name} ${one.name_zh}`, one.symbol)));
listed.slice(0, N_CARDS).forEach((one) => add(one.symbol));
speak();
requestAnimationFrame(paint);
refreshTotals().catch((error) => { $("page").textContent = error.message; });
