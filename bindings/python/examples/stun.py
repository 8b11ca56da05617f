"""How STUN servers see this machine."""

from p2pd import *


async def main() -> None:
    nic = await Interface().start()
    client = STUNClient(nic, nic.supported()[0])
    print("seen as", await client.get_wan_ip())
    print("type of NAT:", (await client.get_nat_info())["nat_info"])
    for proto in (TCP, UDP):
        mapped = await client.get_mapping(proto)
        print(mapped.local[0], "->", mapped.external[0])


if __name__ == "__main__":
    async_test(main)
