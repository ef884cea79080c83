import asyncio, aio_pika, pytest
from tests.proxy import Proxy
async def test_px(rabbit, rabbit_vhost):
    async with Proxy(rabbit.port) as proxy:
        url = rabbit.vhost_url(rabbit_vhost, port=proxy.port)
        c = await aio_pika.connect(url)
        ch = await c.channel(); q = await ch.declare_queue("q", durable=True)
        proxy.slice(3, pause=0)
        await ch.default_exchange.publish(aio_pika.Message(b"x"*100), "q", timeout=5)
        proxy.restore(); proxy.hold("down")
        t = asyncio.create_task(ch.default_exchange.publish(aio_pika.Message(b"x"*100), "q", timeout=5))
        await asyncio.sleep(0.2); assert not t.done(); proxy.restore(); await t
        proxy.limit_data(3, "down")
        with pytest.raises(Exception) as e:
            await ch.default_exchange.publish(aio_pika.Message(b"x"*100), "q", timeout=5)
        print("limit:", repr(e.value)); 
        try: await c.close()
        except BaseException as e: print("close", repr(e))
        proxy.restore()
        c = await aio_pika.connect(url)
        ch = await c.channel(); q = await ch.declare_queue("q", durable=True)
        print(q.declaration_result)
        await ch.default_exchange.publish(aio_pika.Message(b"x"*(1<<22)), "q", timeout=5)
        proxy.reset(); await asyncio.sleep(0.1); print(c.is_closed, proxy.connections)
        await c.close()
