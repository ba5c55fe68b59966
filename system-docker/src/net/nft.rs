//! Tables of nf_tables, written by netlink in one transaction: the old table goes and the new one comes, or nothing
//! changes. Wire format: `linux/netfilter/nf_tables.h`.

use std::ffi::CString;
use std::io;
use std::time::Duration;

use netlink_bindings::nftables::{
    Chained, CmpOps, CtKeys, FibFlags, LookupFlags, MetaKeys, Nfgenmsg, PayloadBase,
    PushExprListAttrs, Registers, SetFlags, VerdictCode,
};
use netlink_bindings::traits::Pusher;
use netlink_bindings::utils::{finalize_nested_header, push_header, push_nested_header};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

/// Subsystem number in the head of a transaction.
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_NAT_DNAT: u32 = 1;
/// The bindings' own number for it is wrong: they count from 0.
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
/// `RTN_LOCAL`.
const LOCAL: u32 = 2;
/// `nft`'s own numbers of types, so that it lists our sets as it lists its own.
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_SERVICE: u32 = 13;
const TYPE_IFNAME: u32 = 41;
/// Bytes of a message's head; its flags are at 6.
const HEAD: usize = 16;
const NLM_F_ACK: u16 = 4;
const BUFFER: usize = 16 << 10;
/// The kernel answers before `send` returns; without an answer something is badly wrong.
const PATIENCE: Duration = Duration::from_secs(10);
/// Elements in one message, whose attributes have lengths of 16 bits.
const MOST_ELEMENTS: usize = 256;

/// The `n`-th register of four bytes.
pub const fn reg(n: u32) -> u32 {
    Registers::Reg3200 as u32 + n
}

/// Which packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

impl Family {
    /// The kernel's number.
    pub fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }
}

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Packets it sees.
    pub family: Family,
    /// Name.
    pub name: &'static str,
    /// Sets and maps.
    pub sets: Vec<Set>,
    /// Chains; one that is jumped to comes before who jumps.
    pub chains: Vec<Chain>,
}

/// A set, or a map when it has data.
#[derive(Clone, Debug)]
pub struct Set {
    /// Name.
    pub name: &'static str,
    key: (u32, u32),
    data: (u32, u32),
    /// Keys, and data in a map.
    pub elements: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Set {
    /// Of interface names, or pairs of them.
    pub fn of_links(name: &'static str, names: u32, keys: Vec<Vec<u8>>) -> Self {
        let kind = (0..names).fold(0, |kind, _| kind << 6 | TYPE_IFNAME);
        let elements = keys.into_iter().map(|key| (key, Vec::new())).collect();
        Self { name, key: (kind, 16 * names), data: (0, 0), elements }
    }

    /// From protocol, port and address to address and port.
    pub fn of_ports(name: &'static str, family: Family, elements: Vec<(Vec<u8>, Vec<u8>)>) -> Self {
        let (kind, length) = if family == Family::Ip { (TYPE_IPV4, 4) } else { (TYPE_IPV6, 16) };
        let key = (TYPE_PROTOCOL << 12 | TYPE_SERVICE << 6 | kind, 8 + length);
        Self { name, key, data: (kind << 6 | TYPE_SERVICE, length + 4), elements }
    }
}

/// A chain.
#[derive(Clone, Debug)]
pub struct Chain {
    name: &'static str,
    base: Option<(Base, Hook, i32)>,
    /// Expressions of each rule.
    pub rules: Vec<Vec<Expr>>,
}

impl Chain {
    /// One that the kernel calls.
    pub fn base(
        name: &'static str,
        base: Base,
        hook: Hook,
        priority: i32,
        rules: Vec<Vec<Expr>>,
    ) -> Self {
        Self { name, base: Some((base, hook, priority)), rules }
    }

    /// One that is jumped to.
    pub fn plain(name: &'static str, rules: Vec<Vec<Expr>>) -> Self {
        Self { name, base: None, rules }
    }
}

/// What a base chain may do.
#[derive(Clone, Copy, Debug)]
pub enum Base {
    /// Accept and drop.
    Filter,
    /// Change addresses.
    Nat,
}

/// Where a base chain stands.
#[derive(Clone, Copy, Debug)]
pub enum Hook {
    /// Come in, not routed.
    Prerouting = 0,
    /// Routed through.
    Forward = 2,
    /// Made here.
    Output = 3,
    /// Going out.
    Postrouting = 4,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Accept,
    /// It ends here.
    Drop,
    /// Another chain says.
    Jump(&'static str),
}

/// One expression of a rule; a comparison that fails ends the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Something known of the packet.
    Meta { key: u32, to: u32 },
    /// Bytes of the packet.
    Payload { base: u32, offset: u32, length: u32, to: u32 },
    /// Compares the first register.
    Compare { equal: bool, with: Vec<u8> },
    /// Whether connection tracking has any of the bits; uses the first register.
    CtBits { key: u32, bits: u32 },
    /// Looks a key up; with `to`, the data of a map.
    Lookup { set: &'static str, key: u32, to: Option<u32>, invert: bool },
    /// Whether the destination is an address of this machine.
    DestinationIsLocal { scratch: u32 },
    /// A constant.
    Immediate { to: u32, data: Vec<u8> },
    /// The end.
    Verdict(Verdict),
    /// New destination, from registers.
    Dnat { family: Family, address: u32, port: u32 },
    /// New source: the address of the interface it goes out of.
    Masquerade,
}

impl Expr {
    /// Protocol family, a byte.
    pub const NFPROTO: u32 = MetaKeys::Nfproto as u32;
    /// Transport protocol, a byte.
    pub const L4PROTO: u32 = MetaKeys::L4Proto as u32;
    /// Interface it came in by, 16 bytes.
    pub const IIFNAME: u32 = MetaKeys::Iifname as u32;
    /// Interface it goes out by, 16 bytes.
    pub const OIFNAME: u32 = MetaKeys::Oifname as u32;
    /// State of its connection.
    pub const CT_STATE: u32 = CtKeys::State as u32;
    /// Status of its connection.
    pub const CT_STATUS: u32 = CtKeys::Status as u32;
    /// From the head of IP on.
    pub const NETWORK: u32 = PayloadBase::NetworkHeader as u32;
    /// From the head of TCP or UDP on.
    pub const TRANSPORT: u32 = PayloadBase::TransportHeader as u32;

    /// The first register is `with`.
    pub fn equal(with: impl Into<Vec<u8>>) -> Self {
        Self::Compare { equal: true, with: with.into() }
    }

    /// The first register is not `with`.
    pub fn unequal(with: impl Into<Vec<u8>>) -> Self {
        Self::Compare { equal: false, with: with.into() }
    }
}

/// Puts `table` in the place of the one of its name.
pub fn replace(table: &Table) -> io::Result<()> {
    transact(table.family, table.name, Some(table))
}

/// Takes the table of that name away, if there is one.
pub fn remove(family: Family, name: &str) -> io::Result<()> {
    transact(family, name, None)
}

fn transact(family: Family, name: &str, table: Option<&Table>) -> io::Result<()> {
    let mut batch = Batch { chained: Chained::new(1), family, table: c_string(name) };
    let mut head = Nfgenmsg::new();
    head.set_res_id(NFNL_SUBSYS_NFTABLES);
    batch.chained.request().op_batch_begin_do(&head);
    // Made so that there is one to delete.
    batch.make_table();
    batch.delete_table();
    if let Some(table) = table {
        batch.make_table();
        table.sets.iter().enumerate().for_each(|(number, set)| batch.make_set(number, set));
        table.chains.iter().for_each(|chain| batch.make_chain(chain));
        for chain in &table.chains {
            chain.rules.iter().for_each(|rule| batch.make_rule(chain, rule));
        }
    }
    batch.chained.request().op_batch_end_do(&head);
    send(batch.chained.finalize().buf()).map_err(|error| {
        io::Error::new(error.kind(), format!("write table {name} of the firewall: {error}"))
    })
}

/// Sends the whole transaction in one piece, as the kernel wants it, and waits for its word. Only the last message but
/// the end of the transaction asks for an answer: thousands of them would not fit into the socket.
fn send(transaction: &[u8]) -> io::Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(rustix::net::netlink::NETFILTER),
    )?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
    sockopt::set_socket_send_buffer_size_force(&socket, transaction.len() * 2 + BUFFER)?;
    let mut transaction = transaction.to_vec();
    ask_once(&mut transaction);
    rustix::net::send(&socket, &transaction, SendFlags::empty())?;
    let mut buffer = [0; BUFFER];
    loop {
        let (length, _) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        for reply in messages(&buffer[..length]) {
            let code = reply.get(HEAD..HEAD + 4).and_then(|code| code.try_into().ok());
            match code.map(i32::from_ne_bytes) {
                Some(0) => return Ok(()),
                Some(code) => return Err(io::Error::from_raw_os_error(-code)),
                None => {}
            }
        }
    }
}

/// The messages in a buffer, as `linux/netlink.h` lays them out.
fn messages(mut buffer: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while let Some(length) = buffer.get(..4).and_then(|length| length.try_into().ok()) {
        let length = u32::from_ne_bytes(length) as usize;
        let Some(message) = buffer.get(..length).filter(|message| message.len() >= HEAD) else {
            break;
        };
        all.push(message);
        buffer = buffer.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}

fn ask_once(transaction: &mut [u8]) {
    let lengths: Vec<usize> =
        messages(transaction).iter().map(|message| message.len().next_multiple_of(4)).collect();
    let last = lengths.len().saturating_sub(2);
    let mut at = 0;
    for (number, length) in lengths.into_iter().enumerate() {
        let flags = &mut transaction[at + 6..at + 8];
        let own = u16::from_ne_bytes([flags[0], flags[1]]);
        let own = if number == last { own | NLM_F_ACK } else { own & !NLM_F_ACK };
        flags.copy_from_slice(&own.to_ne_bytes());
        at += length;
    }
}

fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "")).unwrap_or_default()
}

struct Batch {
    chained: Chained<'static>,
    family: Family,
    table: CString,
}

impl Batch {
    fn header(&self) -> Nfgenmsg {
        let mut header = Nfgenmsg::new();
        header.nfgen_family = self.family.number();
        header
    }

    fn make_table(&mut self) {
        let header = self.header();
        let request = self.chained.request().set_create();
        request.op_newtable_do(&header).encode().push_name(&self.table);
    }

    fn delete_table(&mut self) {
        let header = self.header();
        self.chained.request().op_deltable_do(&header).encode().push_name(&self.table);
    }

    fn make_set(&mut self, number: usize, set: &Set) {
        let header = self.header();
        let name = c_string(set.name);
        let id = u32::try_from(number).unwrap_or(0) + 1;
        let is_map = set.data.1 > 0;
        let mut request = self.chained.request().set_create().op_newset_do(&header);
        let mut attributes = request
            .encode()
            .push_table(&self.table)
            .push_name(&name)
            .push_id(id)
            .push_flags(if is_map { SetFlags::Map as u32 } else { 0 })
            .push_key_type(set.key.0)
            .push_key_len(set.key.1);
        if is_map {
            attributes = attributes.push_data_type(set.data.0).push_data_len(set.data.1);
        }
        drop(attributes);
        drop(request);
        set.elements.chunks(MOST_ELEMENTS).for_each(|some| self.fill_set(&name, some));
    }

    fn fill_set(&mut self, name: &CString, elements: &[(Vec<u8>, Vec<u8>)]) {
        let header = self.header();
        let mut request = self.chained.request().set_create().op_newsetelem_do(&header);
        let mut list = request.encode().push_table(&self.table).push_set(name).nested_elements();
        for (key, data) in elements {
            let mut element = list.nested_elem().nested_key().push_value(key).end_nested();
            if !data.is_empty() {
                element = element.nested_data().push_value(data).end_nested();
            }
            list = element.end_nested();
        }
    }

    fn make_chain(&mut self, chain: &Chain) {
        let header = self.header();
        let mut request = self.chained.request().set_create().op_newchain_do(&header);
        let attributes = request.encode().push_table(&self.table).push_name(&c_string(chain.name));
        if let Some((base, hook, priority)) = chain.base {
            let kind = match base {
                Base::Filter => c"filter",
                Base::Nat => c"nat",
            };
            attributes
                .nested_hook()
                .push_num(hook as u32)
                .push_priority(priority)
                .end_nested()
                .push_policy(VerdictCode::Accept as u32)
                .push_type(kind);
        }
    }

    fn make_rule(&mut self, chain: &Chain, rule: &[Expr]) {
        let header = self.header();
        let request = self.chained.request().set_create().set_append();
        let mut request = request.op_newrule_do(&header);
        let mut list = request
            .encode()
            .push_table(&self.table)
            .push_chain(&c_string(chain.name))
            .nested_expressions();
        for expression in rule {
            list = push(list, expression);
        }
    }
}

fn push<P: Pusher>(list: PushExprListAttrs<P>, expression: &Expr) -> PushExprListAttrs<P> {
    let one = reg(0);
    match expression {
        Expr::CtBits { key, bits } => {
            let element = list.nested_elem().nested_data_ct().push_dreg(one).push_key(*key);
            let list = element.end_nested().end_nested();
            let bits = bits.to_ne_bytes();
            let element = list.nested_elem().nested_data_bitwise().push_sreg(one).push_dreg(one);
            let element = element.push_len(4).nested_mask().push_value(&bits).end_nested();
            let element = element.nested_xor().push_value(&[0; 4]).end_nested();
            push(element.end_nested().end_nested(), &Expr::unequal([0; 4]))
        }
        Expr::DestinationIsLocal { scratch } => {
            let element = list.nested_elem().nested_data_fib().push_dreg(*scratch);
            let element = element.push_result(NFT_FIB_RESULT_ADDRTYPE);
            let element = element.push_flags(FibFlags::Daddr as u32).end_nested().end_nested();
            push(element, &Expr::equal(LOCAL.to_ne_bytes()))
        }
        simple => push_simple(list, simple),
    }
}

fn push_simple<P: Pusher>(list: PushExprListAttrs<P>, expression: &Expr) -> PushExprListAttrs<P> {
    let element = list.nested_elem();
    match expression {
        Expr::Meta { key, to } => {
            element.nested_data_meta().push_dreg(*to).push_key(*key).end_nested()
        }
        Expr::Payload { base, offset, length, to } => {
            let payload = element.nested_data_payload().push_dreg(*to).push_base(*base);
            payload.push_offset(*offset).push_len(*length).end_nested()
        }
        Expr::Compare { equal, with } => {
            let operation = if *equal { CmpOps::Eq } else { CmpOps::Neq };
            let compare = element.nested_data_cmp().push_sreg(reg(0)).push_op(operation as u32);
            compare.nested_data().push_value(with).end_nested().end_nested()
        }
        Expr::Lookup { set, key, to, invert } => {
            let mut element = element.push_name(c"lookup");
            lookup(element.as_vec_mut(), set, *key, *to, *invert);
            return element.end_nested();
        }
        Expr::Immediate { to, data } => {
            let immediate = element.nested_data_immediate().push_dreg(*to);
            immediate.nested_data().push_value(data).end_nested().end_nested()
        }
        Expr::Verdict(verdict) => {
            let immediate = element.nested_data_immediate().push_dreg(Registers::RegVerdict as u32);
            let (code, chain) = match verdict {
                Verdict::Accept => (VerdictCode::Accept, None),
                Verdict::Drop => (VerdictCode::Drop, None),
                Verdict::Jump(chain) => (VerdictCode::Jump, Some(chain)),
            };
            let mut verdict = immediate.nested_data().nested_verdict().push_code(code as u32);
            if let Some(chain) = chain {
                verdict = verdict.push_chain(&c_string(chain));
            }
            verdict.end_nested().end_nested().end_nested()
        }
        Expr::Dnat { family, address, port } => {
            let nat = element.nested_data_nat().push_type(NFT_NAT_DNAT);
            let nat = nat.push_family(u32::from(family.number())).push_reg_addr_min(*address);
            nat.push_reg_proto_min(*port).end_nested()
        }
        _ => return element.push_name(c"masq").end_nested(),
    }
    .end_nested()
}

/// The data of a lookup, as `enum nft_lookup_attributes` numbers it: the description that the bindings are made from
/// has other numbers for it.
fn lookup(message: &mut Vec<u8>, set: &str, key: u32, to: Option<u32>, invert: bool) {
    const NFTA_EXPR_DATA: u16 = 2;
    let (set_name, source, target, flags) = (1, 2, 3, 5);
    let header = push_nested_header(message, NFTA_EXPR_DATA);
    let mut push = |kind: u16, value: &[u8]| {
        push_header(message, kind, u16::try_from(value.len()).unwrap_or(0));
        message.extend(value);
    };
    push(set_name, c_string(set).as_bytes_with_nul());
    push(source, &key.to_be_bytes());
    if let Some(to) = to {
        push(target, &to.to_be_bytes());
    }
    if invert {
        push(flags, &(LookupFlags::Invert as u32).to_be_bytes());
    }
    finalize_nested_header(message, header);
}
