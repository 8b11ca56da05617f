"""What a machine's interfaces, routes and NAT are."""

from p2pd import *


async def main() -> None:
    nic = await Interface(netifaces=await init_p2pd())
    await nic.load_nat()
    print(nic)
    for family in nic.supported():
        route = nic.route(family)
        print(f"{route.nic()} is seen as {route.ext()}")
    print([each.name for each in await load_interfaces()])


if __name__ == "__main__":
    async_test(main)
